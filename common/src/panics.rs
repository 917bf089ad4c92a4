//! Panics as tests see them. A task that panics ends silently for all others; a test in which one did has failed.

use std::{cell::RefCell, panic, sync::Once};

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

static HOOK: Once = Once::new();

/// From now on the panics of all threads are kept, each with its thread.
pub fn watch() {
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            SEEN.with_borrow_mut(|seen| seen.push(info.to_string()));
            usual(info);
        }));
    });
    drop(take());
}

/// The panics of this thread since the last call.
pub fn take() -> Vec<String> {
    SEEN.take()
}
