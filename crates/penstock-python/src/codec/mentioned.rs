//! The types that a pickle names, for the note on an error. They are found without rebuilding anything, some
//! hundred times faster, so that a get that fails takes no longer than one that succeeds.

/// Types in a note.
const MOST: usize = 8;
/// Bytes of a type's name with that of its module. Longer ones are left out.
const LONGEST: usize = 1000;
/// Bytes of the longest note: all names, with three bytes for each that is no UTF-8, and some words.
pub const LONGEST_NOTE: usize = MOST * (3 * LONGEST + 3) + 500;

/// The first [`MOST`] types named in a pickle, each once. Ends at damage, and at an opcode of a protocol to
/// come.
pub fn types(pickle: &[u8]) -> Vec<String> {
    let mut walk = Walk {
        rest: pickle,
        pushed: [None, None],
        memo: Vec::new(),
        found: Vec::new(),
    };
    while walk.found.len() < MOST && walk.step().is_some() {}
    walk.found
}

struct Walk<'a> {
    rest: &'a [u8],
    /// The top two objects of the stack, if they are strings.
    pushed: [Option<&'a [u8]>; 2],
    /// The memo by number: the strings, and `None` for other objects.
    memo: Vec<Option<&'a [u8]>>,
    found: Vec<String>,
}

impl<'a> Walk<'a> {
    /// Goes over one opcode. `None` at the end of the pickle, and where it cannot be read.
    fn step(&mut self) -> Option<()> {
        let [opcode] = self.number()?;
        match opcode {
            b'.' => return None,
            // One number, the lowest byte first.
            b'K' | 0x80 | 0x82 => self.push_other(1)?,
            b'M' | 0x83 => self.push_other(2)?,
            b'J' | 0x84 => self.push_other(4)?,
            b'G' => self.push_other(8)?,
            0x95 => self.push_other(8)?, // a frame begins
            // Text as far as the end of the line.
            b'I' | b'L' | b'F' | b'S' | b'P' => {
                self.line()?;
                self.push(None);
            }
            b'V' => {
                let string = self.line()?;
                self.push(Some(string));
            }
            // A length, and so many bytes.
            b'U' | b'C' | 0x8a => self.other_of_length::<1>()?,
            b'T' | b'B' | 0x8b => self.other_of_length::<4>()?,
            0x8e | 0x96 => self.other_of_length::<8>()?,
            0x8c => self.string_of_length::<1>()?,
            b'X' => self.string_of_length::<4>()?,
            0x8d => self.string_of_length::<8>()?,
            // The memo. Remembering an object leaves the stack as it is.
            0x94 => {
                // There may be no memory: that may be why the item failed.
                self.memo.try_reserve(1).ok()?;
                self.memo.push(self.pushed[1]);
            }
            b'q' => {
                let [number] = self.number()?;
                self.remember(number.into())?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.number()?);
                self.remember(number)?;
            }
            b'p' => {
                let number = self.decimal()?;
                self.remember(number)?;
            }
            b'h' => {
                let [number] = self.number()?;
                self.recall(number.into());
            }
            b'j' => {
                let number = u32::from_le_bytes(self.number()?);
                self.recall(number);
            }
            b'g' => {
                let number = self.decimal()?;
                self.recall(number);
            }
            // The names themselves.
            b'c' | b'i' => {
                let module = self.line()?;
                let name = self.line()?;
                self.find(module, name);
                self.push(None);
            }
            0x93 => {
                if let [Some(module), Some(name)] = self.pushed {
                    self.find(module, name);
                }
                self.push(None);
            }
            _ => self.push(None), // has no argument
        }
        Some(())
    }

    fn push(&mut self, string: Option<&'a [u8]>) {
        self.pushed = [self.pushed[1], string];
    }

    fn skip(&mut self, length: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(skipped)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (number, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*number)
    }

    fn length<const N: usize>(&mut self) -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.number::<N>()?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn push_other(&mut self, length: usize) -> Option<()> {
        self.skip(length)?;
        self.push(None);
        Some(())
    }

    fn other_of_length<const N: usize>(&mut self) -> Option<()> {
        let length = self.length::<N>()?;
        self.push_other(length)
    }

    fn string_of_length<const N: usize>(&mut self) -> Option<()> {
        let length = self.length::<N>()?;
        let string = self.skip(length)?;
        self.push(Some(string));
        Some(())
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let length = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = self.skip(length)?;
        self.skip(1)?;
        Some(line)
    }

    fn decimal(&mut self) -> Option<u32> {
        std::str::from_utf8(self.line()?).ok()?.parse().ok()
    }

    /// Picklers number objects in turn. A number far beyond the last one is damage.
    fn remember(&mut self, number: u32) -> Option<()> {
        let number = number as usize;
        if number > self.memo.len() + 1 {
            return None;
        }
        if number >= self.memo.len() {
            self.memo.try_reserve(number + 1 - self.memo.len()).ok()?;
            self.memo.resize(number + 1, None);
        }
        self.memo[number] = self.pushed[1];
        Some(())
    }

    fn recall(&mut self, number: u32) {
        let string = self.memo.get(number as usize).copied().flatten();
        self.push(string);
    }

    fn find(&mut self, module: &[u8], name: &[u8]) {
        if module.len() + name.len() > LONGEST {
            return;
        }
        let found = format!(
            "{}.{}",
            String::from_utf8_lossy(module),
            String::from_utf8_lossy(name)
        );
        if !self.found.contains(&found) {
            self.found.push(found);
        }
    }
}
