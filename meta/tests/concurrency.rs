//! Operations at the same time, on the store that really conflicts.

use std::sync::Arc;

use types::{rpc::meta::RenameMode, status::StatusCode};

use crate::{
    check::check,
    support::{ROOT, World, create},
};

/// Runs `count` tasks on several threads; returns their results.
async fn together<T, F, Fut>(world: &Arc<World>, count: usize, task: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(Arc<World>, usize) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..count)
        .map(|number| world.env.spawn("test", task(world.clone(), number)))
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.join().await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_creates_of_one_name_exactly_one_creates() {
    let world = Arc::new(World::new().await);
    for round in 0..50 {
        let replies = together(&world, 4, move |world, number| async move {
            let mut request = create(ROOT, &format!("f{round}"));
            request.exclusive = number == 0;
            world.create(request).await
        })
        .await;
        let created: Vec<_> = replies.iter().flatten().filter(|r| r.created).collect();
        assert_eq!(created.len(), 1, "{replies:?}");
        for reply in &replies {
            match reply {
                Ok(reply) => assert_eq!(reply.inode.id, created[0].inode.id),
                Err(code) => assert_eq!(*code, StatusCode::Exists),
            }
        }
    }
    check(&*world.kv).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_that_would_make_a_circle_together_do_not_both_succeed() {
    let world = Arc::new(World::new().await);
    for round in 0..50 {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let (a_id, b_id) = (world.mkdir(ROOT, &a).await, world.mkdir(ROOT, &b).await);
        let results = together(&world, 2, move |world, number| {
            let (a, b) = (format!("a{round}"), format!("b{round}"));
            async move {
                let (from, into) = match number {
                    0 => (a, b_id),
                    _ => (b, a_id),
                };
                let (from, to) = ((ROOT, from.as_str()), (into, "x"));
                world.rename(from, to, RenameMode::Replace).await
            }
        })
        .await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(
            results.contains(&Err(StatusCode::InvalidArgument)),
            "{results:?}"
        );
    }
    check(&*world.kv).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_made_in_a_directory_that_is_removed() {
    let world = Arc::new(World::new().await);
    for round in 0..50 {
        let name = format!("d{round}");
        let dir = world.mkdir(ROOT, &name).await;
        let results = together(&world, 2, move |world, number| {
            let name = format!("d{round}");
            async move {
                if number == 0 {
                    let rmdir = crate::support::named(ROOT, &name);
                    world.run::<types::rpc::meta::Rmdir>(rmdir).await
                } else {
                    world.create(create(dir, "x")).await.map(|_| ())
                }
            }
        })
        .await;
        let expected = match world.lookup(ROOT, &name).await {
            Ok(_) => [Err(StatusCode::NotEmpty), Ok(())],
            Err(_) => [Ok(()), Err(StatusCode::Stale)],
        };
        assert_eq!(results, expected);
    }
    check(&*world.kv).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_open_and_the_last_unlink_agree_on_who_keeps_the_file() {
    let world = Arc::new(World::new().await);
    for round in 0..50 {
        let name = format!("f{round}");
        let file = world.file(ROOT, &name).await.id;
        let opened = together(&world, 3, move |world, number| {
            let name = format!("f{round}");
            async move {
                match number {
                    0 => world.unlink(ROOT, &name).await.map(|()| false),
                    1 => {
                        world.collector().collect().await;
                        Ok(false)
                    }
                    _ => world.open(file).await.map(|_| true),
                }
            }
        })
        .await;
        world.collector().collect().await;
        match opened[2] {
            Ok(_) => assert_eq!(world.get(file).await.unwrap().nlink, 0),
            Err(code) => {
                assert_eq!(code, StatusCode::Stale);
                assert_eq!(world.get(file).await, Err(StatusCode::Stale));
            }
        }
    }
    check(&*world.kv).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_creates_in_one_directory_all_succeed() {
    let world = Arc::new(World::new().await);
    together(&world, 8, |world, number| async move {
        for file in 0..100 {
            world.file(ROOT, &format!("{number}-{file}")).await;
        }
    })
    .await;
    assert_eq!(world.names(ROOT).await.len(), 800);
    check(&*world.kv).await;
}
