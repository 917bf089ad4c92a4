//! Claims about requests and replies without bulk.

use super::{
    BufPool, Bulk, Caller, Duration, Echo, Fixture, GATHERED, Gather, Panic, Produce, Sleep,
    Status, StatusCode, Subject, Unserved, WhoAndWhen, caller, join_all,
};

/// Bodies of all sizes come back equal.
pub async fn echo_returns_the_request(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    for length in [0, 1, 63, 64, 4096, 100_000, 3_000_000] {
        let body: Vec<u8> = (0..length).map(|i: u32| i.to_le_bytes()[0]).collect();
        let answer = fixture.ask::<Echo>(&client, &address, &body).await;
        assert!(answer.as_ref() == Ok(&body), "{length} bytes");
    }
}

/// A server calls a method of its own through its address.
pub async fn an_endpoint_calls_itself(subject: Subject) {
    let fixture = Fixture::new(subject);
    let endpoint = fixture.endpoint();
    let address = fixture.serve(&endpoint).await.address();
    let answer = fixture
        .ask::<Echo>(&endpoint, &address, &vec![1, 2, 3])
        .await;
    assert_eq!(answer, Ok(vec![1, 2, 3]));
}

/// No call is answered before all of them have arrived, so all are outstanding together.
pub async fn a_thousand_calls_are_under_way_at_once(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let calls = (0..GATHERED).map(|_| fixture.ask::<Gather>(&client, &address, &()));
    for answer in join_all(calls).await {
        assert_eq!(answer, Ok(()));
    }
}

/// Identity, ids and the deadline arrive as they were sent.
pub async fn a_request_carries_caller_and_deadline(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let deadline = fixture.env.now() + Duration::from_secs(3600);
    let caller = caller();
    let answer = client
        .ask::<WhoAndWhen>(&address, &caller, &(), deadline)
        .await;
    let (who, seconds_left): (Caller, u64) = answer.expect("answered");
    assert_eq!(who, caller);
    assert!((3590..=3600).contains(&seconds_left), "{seconds_left}");
}

/// The caller hears of it in time; the handler is not cut; the connection is as good as before.
pub async fn a_deadline_ends_the_call_but_not_the_handler(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![]).await,
        Ok(vec![])
    );
    let started = fixture.env.now();
    let deadline = started + Duration::from_millis(50);
    let bulk = Bulk::destination(client.buffers().allocate(10));
    let caller = caller();
    let reply = client
        .call::<Sleep>(&address, &caller, &400, bulk, deadline)
        .await;
    let took = fixture.env.now() - started;
    assert_eq!(code(&reply.result), Some(StatusCode::DeadlineExceeded));
    assert!(took < Duration::from_millis(350), "{took:?}");
    assert_eq!(reply.destinations.len(), 1, "nobody else held the buffer");
    fixture.finished(1).await;
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![1]).await,
        Ok(vec![1])
    );
    // One that is over before it starts.
    let answer = client
        .ask::<Echo>(&address, &caller, &vec![], started)
        .await;
    assert_eq!(code(&answer), Some(StatusCode::DeadlineExceeded));
}

/// The server says so and goes on.
pub async fn a_panicking_handler_is_an_internal_error(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let answer = fixture.ask::<Panic>(&client, &address, &()).await;
    assert_eq!(code(&answer), Some(StatusCode::Internal));
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![1]).await,
        Ok(vec![1])
    );
}

/// A newer client asks an older server.
pub async fn an_unknown_method_is_unsupported(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let answer = fixture.ask::<Unserved>(&client, &address, &()).await;
    assert_eq!(code(&answer), Some(StatusCode::Unsupported));
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![1]).await,
        Ok(vec![1])
    );
}

/// Requests beyond the limits are refused where they are made, replies where they are made; the connection lives.
pub async fn what_is_too_large_is_refused_and_nothing_else(subject: Subject) {
    let mut fixture = Fixture::new(subject);
    fixture.config.body_bytes_max = 1 << 20;
    fixture.config.payload_bytes_max = 1 << 20;
    fixture.config.buffers_max = 8;
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let body = vec![0; (1 << 20) + 1];
    let answer = fixture.ask::<Echo>(&client, &address, &body).await;
    assert_eq!(code(&answer), Some(StatusCode::InvalidArgument));
    let answer = fixture.ask::<Produce>(&client, &address, &(2 << 20)).await;
    assert_eq!(code(&answer), Some(StatusCode::Internal));
    let pool = BufPool::new(0);
    let long = vec![pool.allocate((1 << 20) + 1).freeze()];
    let many = vec![pool.allocate(1).freeze(); 9];
    for sources in [long, many] {
        let bulk = Bulk {
            sources,
            destinations: Vec::new(),
        };
        let reply = fixture.call::<Echo>(&client, &address, &vec![], bulk).await;
        assert_eq!(code(&reply.result), Some(StatusCode::InvalidArgument));
    }
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![1]).await,
        Ok(vec![1])
    );
}

pub(super) fn code<T>(result: &Result<T, Status>) -> Option<StatusCode> {
    result.as_ref().err().map(|status| status.code)
}
