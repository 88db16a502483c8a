//! The least and the greatest value of a step function over a range.

pub(crate) struct Extremes {
    size: usize,
    least: Vec<i32>,
    greatest: Vec<i32>,
}

impl Extremes {
    /// Of a function that is the sum of `changes` up to a place.
    pub(crate) fn of_sums(changes: &[i32]) -> Extremes {
        let size = changes.len();
        let mut least = vec![0; 2 * size];
        let mut sum = 0;
        for (place, change) in changes.iter().enumerate() {
            sum += change;
            least[size + place] = sum;
        }
        let mut greatest = least.clone();
        for node in (1..size).rev() {
            least[node] = least[2 * node].min(least[2 * node + 1]);
            greatest[node] = greatest[2 * node].max(greatest[2 * node + 1]);
        }
        Extremes {
            size,
            least,
            greatest,
        }
    }

    /// Least and greatest at the places from `first` to `last`, both included.
    pub(crate) fn within(&self, first: usize, last: usize) -> (i32, i32) {
        let (mut low, mut high) = (first + self.size, last + self.size + 1);
        let (mut least, mut greatest) = (i32::MAX, i32::MIN);
        let mut take = |node: usize| {
            least = least.min(self.least[node]);
            greatest = greatest.max(self.greatest[node]);
        };
        while low < high {
            if low % 2 == 1 {
                take(low);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                take(high);
            }
            low /= 2;
            high /= 2;
        }
        (least, greatest)
    }
}

/// For each place the greatest of what was entered at it or before it.
pub(crate) struct PrefixGreatest<T>(Vec<Option<T>>);

impl<T: Copy + Ord> PrefixGreatest<T> {
    pub(crate) fn new(places: usize) -> PrefixGreatest<T> {
        PrefixGreatest(vec![None; places + 1])
    }

    pub(crate) fn enter(&mut self, place: usize, value: T) {
        let mut node = place + 1;
        while node < self.0.len() {
            self.0[node] = self.0[node].max(Some(value));
            node += node & node.wrapping_neg();
        }
    }

    /// Over the first `count` places.
    pub(crate) fn of_first(&self, count: usize) -> Option<T> {
        let mut node = count;
        let mut greatest = None;
        while node > 0 {
            greatest = greatest.max(self.0[node]);
            node -= node & node.wrapping_neg();
        }
        greatest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn ranges_agree_with_a_scan() {
        let mut random = Random::new(1);
        for size in 1..40 {
            let changes: Vec<i32> = (0..size).map(|_| random.below(7) as i32 - 3).collect();
            let sums: Vec<i32> = changes
                .iter()
                .scan(0, |sum, change| {
                    *sum += change;
                    Some(*sum)
                })
                .collect();
            let extremes = Extremes::of_sums(&changes);
            let mut prefix = PrefixGreatest::new(sums.len());
            for (place, sum) in sums.iter().enumerate() {
                prefix.enter(place, *sum);
            }
            for first in 0..size {
                assert_eq!(prefix.of_first(first), sums[..first].iter().copied().max());
                for last in first..size {
                    let range = &sums[first..=last];
                    let expected = (*range.iter().min().unwrap(), *range.iter().max().unwrap());
                    assert_eq!(extremes.within(first, last), expected);
                }
            }
        }
    }
}
