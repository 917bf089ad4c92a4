//! The conformance suite on every transport.

use net::conformance::{self, Subject};

macro_rules! claims {
    ($transport:ident: $($claim:ident)*) => {
        mod $transport {
            use super::{Subject, conformance};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    conformance::$claim(Subject::$transport()).await;
                }
            )*
        }
    };
}

macro_rules! every_transport {
    ($($claims:tt)*) => {
        claims!(tcp: $($claims)*);
        claims!(mem: $($claims)*);
    };
}

every_transport! {
    echo_returns_the_request
    an_endpoint_calls_itself
    a_thousand_calls_are_under_way_at_once
    a_request_carries_caller_and_deadline
    a_deadline_ends_the_call_but_not_the_handler
    a_panicking_handler_is_an_internal_error
    an_unknown_method_is_unsupported
    what_is_too_large_is_refused_and_nothing_else
    pushes_land_at_their_offsets
    sources_arrive_equal_and_aligned
    a_push_outside_is_refused_and_nothing_else
    a_reply_follows_the_pushes_before_it
    a_cancelled_call_with_a_late_push_harms_nobody
    a_killed_server_makes_its_calls_unreachable
    calls_reach_a_server_that_came_back
    a_stopping_server_answers_what_is_under_way
    a_taken_address_is_refused_by_name
    a_dead_peer_costs_little
}
