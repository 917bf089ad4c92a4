//! Claims about servers that stop, die, come back or were never there.

use super::{
    Duration, Echo, Fixture, ServeError, Sleep, StatusCode, Subject, caller, calls::code, join_all,
};

/// Not at its deadline: at once.
pub async fn a_killed_server_makes_its_calls_unreachable(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let running = fixture.serve(&server).await;
    let address = running.address();
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![]).await,
        Ok(vec![])
    );
    let calls = join_all((0..10).map(|_| fixture.ask::<Sleep>(&client, &address, &10_000)));
    let kill = async {
        fixture.env.sleep(Duration::from_millis(50)).await;
        running.kill().await;
    };
    let started = fixture.env.now();
    let (answers, ()) = futures::join!(calls, kill);
    for answer in answers {
        assert_eq!(code(&answer), Some(StatusCode::Unreachable), "{answer:?}");
    }
    let took = fixture.env.now() - started;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// At the same address, without anyone telling the client.
pub async fn calls_reach_a_server_that_came_back(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let mut running = fixture.serve(&server).await;
    let address = running.address();
    for round in 0..3 {
        let body = vec![round];
        assert_eq!(
            fixture.ask::<Echo>(&client, &address, &body).await,
            Ok(body.clone())
        );
        running.kill().await;
        let answer = fixture.ask::<Echo>(&client, &address, &body).await;
        assert_eq!(code(&answer), Some(StatusCode::Unreachable));
        let served = fixture.serve_at(&server, &address).await;
        running = served.expect("the port is free again");
        let back = fixture.env.now();
        while fixture.ask::<Echo>(&client, &address, &body).await != Ok(body.clone()) {
            let waited = fixture.env.now() - back;
            assert!(waited < Duration::from_secs(2), "still not reached");
            fixture.env.sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Requests under way are answered; new ones are not taken; then it has ended.
pub async fn a_stopping_server_answers_what_is_under_way(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let running = fixture.serve(&server).await;
    let address = running.address();
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![]).await,
        Ok(vec![])
    );
    let calls = join_all((0..20).map(|_| fixture.ask::<Sleep>(&client, &address, &300)));
    let stop = async {
        fixture.env.sleep(Duration::from_millis(100)).await;
        fixture.shutdown.trigger();
        running.join().await;
    };
    let (answers, ()) = futures::join!(calls, stop);
    for answer in answers {
        assert_eq!(answer, Ok(()));
    }
    let answer = fixture.ask::<Echo>(&client, &address, &vec![]).await;
    assert_eq!(code(&answer), Some(StatusCode::Unreachable));
}

/// A second server does not take the first one's place.
pub async fn a_taken_address_is_refused_by_name(subject: Subject) {
    let fixture = Fixture::new(subject);
    let server = fixture.endpoint();
    let address = fixture.serve(&server).await.address();
    let second = fixture.serve_at(&fixture.endpoint(), &address).await;
    let error = second.expect_err("the address is taken");
    assert!(matches!(error, ServeError::AddressInUse { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&address) && text.contains("`listen`"),
        "{text}"
    );
}

/// Callers share attempts, and between attempts they fail at once.
pub async fn a_dead_peer_costs_little(subject: Subject) {
    let fixture = Fixture::new(subject);
    let client = fixture.endpoint();
    let caller = caller();
    let body = vec![];
    let dead = fixture.subject.dead;
    let started = fixture.env.now();
    for _ in 0..200 {
        let deadline = fixture.deadline();
        let calls = (0..10).map(|_| client.ask::<Echo>(dead, &caller, &body, deadline));
        for answer in join_all(calls).await {
            assert_eq!(code(&answer), Some(StatusCode::Unreachable), "{answer:?}");
        }
    }
    let took = fixture.env.now() - started;
    assert!(took < Duration::from_secs(5), "{took:?}");
}
