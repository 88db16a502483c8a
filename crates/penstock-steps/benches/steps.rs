//! What single steps of the core cost when no other process is at work: one process, one thread, warm memory.
//!
//! What two processes cost each other (cache lines that go to and fro, sleeping and waking) is not here; see
//! `make bench` for that.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use penstock_core::{Batch, Buffer, Delivery, Error, Options, Patience, Queue, Wait};

const PLAIN: Options = Options {
    maxsize: 0,
    max_bytes: Some(1 << 30),
    soft_bytes: 0,
    acknowledged: false,
    max_deliveries: 3,
};

fn with<T>(patience: Patience, operation: impl FnOnce(Wait<'_>) -> T) -> T {
    operation(Wait {
        patience,
        interrupted: &mut || false,
    })
}

fn queue(options: &Options) -> Arc<Queue> {
    Queue::create(options).expect("a queue")
}

fn put(queue: &Queue, payload: &[u8]) {
    with(Patience::NoWait, |wait| queue.put(&[payload], wait)).expect("room");
}

fn get(queue: &Arc<Queue>, buffer: &mut Buffer) -> Delivery {
    with(Patience::NoWait, |wait| queue.get(buffer, wait)).expect("an item")
}

fn items(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put and get");
    for (name, len) in [
        ("inline, 40 bytes", 40),
        ("object, 1 KB", 1000),
        ("lent object, 4 KiB", 4096),
        ("lent run, 64 KiB", 65_536),
        ("lent run, 1 MiB", 1 << 20),
    ] {
        let queue = queue(&PLAIN);
        let payload = vec![7; len];
        let mut buffer = Buffer::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                put(&queue, black_box(&payload));
                drop(black_box(get(&queue, &mut buffer)));
            });
        });
    }
    let acknowledged = queue(&Options {
        acknowledged: true,
        ..PLAIN
    });
    let mut buffer = Buffer::default();
    group.bench_function("inline, with task_done", |bencher| {
        bencher.iter(|| {
            put(&acknowledged, black_box(&[7; 40]));
            drop(black_box(get(&acknowledged, &mut buffer)));
            acknowledged.task_done().expect("an item to finish");
        });
    });
    group.finish();

    let many = queue(&PLAIN);
    let payloads = [[7u8; 40].as_slice(); 64];
    criterion.bench_function("64 inline items, put_many and get_many", |bencher| {
        bencher.iter_batched(
            || Batch::with_room_for(64).expect("there is memory"),
            |mut batch| {
                let (count, put) = with(Patience::NoWait, |wait| many.put_many(black_box(&payloads), wait));
                put.expect("room");
                with(Patience::NoWait, |wait| many.get_many(&mut batch, wait)).expect("items");
                (count, batch)
            },
            BatchSize::SmallInput,
        );
    });
}

fn queries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("query");
    let empty = queue(&PLAIN);
    let mut buffer = Buffer::default();
    group.bench_function("len", |bencher| bencher.iter(|| black_box(empty.len())));
    group.bench_function("get that finds nothing", |bencher| {
        bencher.iter(|| {
            let got = with(Patience::NoWait, |wait| empty.get(&mut buffer, wait));
            assert_eq!(got.err(), Some(Error::Empty));
        });
    });
    group.bench_function("get that waits 1 ms in vain, beyond the millisecond", |bencher| {
        bencher.iter_custom(|times| {
            let mut beyond = Duration::ZERO;
            for _ in 0..times {
                let start = Instant::now();
                let deadline = start + Duration::from_millis(1);
                let got = with(Patience::Until(deadline), |wait| empty.get(&mut buffer, wait));
                assert_eq!(got.err(), Some(Error::Empty));
                beyond += start.elapsed().saturating_sub(Duration::from_millis(1));
            }
            beyond
        });
    });
    group.finish();
}

fn queues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.bench_function("create and drop", |bencher| bencher.iter(|| queue(&PLAIN)));
    group.bench_function("create, use once and drop", |bencher| {
        bencher.iter(|| {
            let queue = queue(&PLAIN);
            put(&queue, b"item");
            queue
        });
    });
    group.finish();
}

criterion_group!(steps, items, queries, queues);
criterion_main!(steps);
