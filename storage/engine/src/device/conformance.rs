//! What every device does alike.

use std::{io, sync::Arc};

use common::{
    buf::{BufPool, SharedBuf},
    env::Env,
};
use futures::future::join_all;

use super::{
    Device, FileId,
    direct::DirectDevice,
    faulty::FaultyDevice,
    files::Files,
    mem::{MemDevice, PowerSwitch},
    uring::UringDevice,
};
use crate::group::{GroupId, SizeClass};

const SLOT: u64 = 65_536;

fn group(number: u32) -> FileId {
    let class = SizeClass::from_index(0).unwrap();
    FileId::Group(GroupId { class, number })
}

async fn for_each_device<F: Future<Output = ()>>(suite: impl Fn(Arc<dyn Device>, BufPool) -> F) {
    let env = Env::real();
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let files = |index: usize| Arc::new(Files::open(dirs[index].path()).unwrap());
    let mem: Arc<dyn Device> = Arc::new(MemDevice::new(&env, PowerSwitch::lasting()));
    let devices: Vec<Arc<dyn Device>> = vec![
        Arc::new(UringDevice::new(&env, files(0), 8).unwrap()),
        Arc::new(DirectDevice::new(&env, files(1), 8)),
        mem.clone(),
        FaultyDevice::new(mem),
    ];
    for device in devices {
        let groups = device.list().await.unwrap();
        for (group, _) in groups {
            device.remove(group).await.unwrap();
        }
        suite(device, BufPool::new(64 << 20)).await;
    }
}

fn pattern(pool: &BufPool, seed: u64, length: usize) -> SharedBuf {
    let mut buf = pool.allocate(length);
    for (index, byte) in buf.iter_mut().enumerate() {
        *byte = (seed.wrapping_mul(31) as usize + index / 512) as u8;
    }
    buf.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_read_by_many_at_once() {
    for_each_device(|device, pool| async move {
        device.create(group(1)).await.unwrap();
        device.reserve(group(1), 64 * SLOT).await.unwrap();
        let (device, pool) = (&device, &pool);
        join_all((0..64).map(|index| async move {
            let data = pattern(pool, index, SLOT as usize);
            device.write(group(1), index * SLOT, data).await.unwrap();
        }))
        .await;
        device.sync(group(1)).await.unwrap();
        let again = pattern(pool, 63, SLOT as usize);
        device
            .write_durably(group(1), 63 * SLOT, again)
            .await
            .unwrap();
        join_all((0..256).map(|index| async move {
            let slot = index % 64;
            let start = index / 64 * 4096;
            let buf = pool.allocate(8192);
            let read = device.read(group(1), slot * SLOT + start, buf).await;
            let expected = pattern(pool, slot, SLOT as usize);
            let start = start as usize;
            assert_eq!(read.unwrap()[..], expected[start..start + 8192]);
        }))
        .await;
        device.close().await;
    })
    .await;
}

#[tokio::test]
async fn groups_are_made_listed_grown_and_removed() {
    for_each_device(|device, _| async move {
        for number in [4, 2] {
            device.create(group(number)).await.unwrap();
        }
        assert!(device.create(group(4)).await.is_err());
        device.reserve(group(4), 3 * SLOT).await.unwrap();
        device.reserve(group(4), SLOT).await.unwrap();
        let listed = device.list().await.unwrap();
        assert_eq!(listed, [(group(2), 0), (group(4), 3 * SLOT)]);
        device.remove(group(2)).await.unwrap();
        assert_eq!(device.list().await.unwrap().len(), 1);
        assert!(device.available_bytes().await.unwrap() > 0);
        device.close().await;
    })
    .await;
}

#[tokio::test]
async fn impossible_io_is_an_error() {
    for_each_device(|device, pool| async move {
        device.create(group(0)).await.unwrap();
        device.reserve(group(0), SLOT).await.unwrap();
        let past_end = device.read(group(0), SLOT - 4096, pool.allocate(8192));
        assert_eq!(
            past_end.await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let unaligned = device.read(group(0), 512, pool.allocate(4096)).await;
        assert_eq!(unaligned.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let short = device.write(group(0), 0, pool.allocate(100).freeze()).await;
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let unknown = device.read(group(9), 0, pool.allocate(4096)).await;
        assert_eq!(unknown.unwrap_err().kind(), io::ErrorKind::NotFound);
        device.close().await;
    })
    .await;
}

#[tokio::test]
async fn dropped_callers_leave_a_working_device() {
    for_each_device(|device, pool| async move {
        device.create(group(0)).await.unwrap();
        device.reserve(group(0), SLOT).await.unwrap();
        for seed in 0..50 {
            let data = pattern(&pool, seed, SLOT as usize);
            // Polled once, then dropped: the write is under way or was never begun.
            let write = device.write(group(0), 0, data);
            let poll = futures::poll!(std::pin::pin!(write));
            assert!(!matches!(poll, std::task::Poll::Ready(Err(_))));
        }
        let last = pattern(&pool, 1000, SLOT as usize);
        device.write(group(0), 0, last).await.unwrap();
        device.sync(group(0)).await.unwrap();
        let buf = pool.allocate(SLOT as usize);
        let read = device.read(group(0), 0, buf).await.unwrap();
        assert_eq!(read.len(), SLOT as usize);
        device.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_closed_device_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    for uring in [true, false] {
        let files = Arc::new(Files::open(dir.path()).unwrap());
        let device: Arc<dyn Device> = if uring {
            Arc::new(UringDevice::new(&env, files, 4).unwrap())
        } else {
            Arc::new(DirectDevice::new(&env, files, 4))
        };
        let id = group(u32::from(uring));
        device.create(id).await.unwrap();
        device.close().await;
        assert!(device.sync(id).await.is_err());
    }
}
