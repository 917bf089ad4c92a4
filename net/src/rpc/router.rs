//! Typed dispatch: a handler per method.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt};
use types::{
    codec,
    rpc::{Rpc, Service},
    status::{Status, StatusCode},
};

use crate::rpc::server::{Handler, Incoming};

type Run = dyn Fn(Arc<Incoming>) -> BoxFuture<'static, Result<Vec<u8>, Status>> + Send + Sync;

struct Route {
    name: &'static str,
    run: Box<Run>,
}

/// Methods and their handlers. A method without one is answered Unsupported.
#[derive(Default)]
pub struct Router {
    routes: BTreeMap<(Service, u16), Route>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.routes.values().map(|route| route.name);
        f.debug_list().entries(names).finish()
    }
}

impl Router {
    /// Serves nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the handler of a method.
    ///
    /// # Panics
    /// When the method has one already: a bug in start-up.
    #[must_use]
    pub fn on<M, F, Fut>(mut self, handler: F) -> Self
    where
        M: Rpc,
        F: Fn(M::Request, Arc<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M::Response, Status>> + Send + 'static,
    {
        let run = move |incoming: Arc<Incoming>| {
            let answer = incoming
                .decode::<M>()
                .map(|request| handler(request, incoming.clone()));
            async move {
                let response = answer?.await?;
                Ok(codec::encode_body(&response))
            }
            .boxed()
        };
        let route = Route {
            name: M::NAME,
            run: Box::new(run),
        };
        let old = self.routes.insert((M::SERVICE, M::METHOD), route);
        assert!(old.is_none(), "{} has two handlers", M::NAME);
        self
    }

    /// Takes over the methods of another router.
    ///
    /// # Panics
    /// When a method has a handler in both: a bug in start-up.
    #[must_use]
    pub fn merge(mut self, other: Router) -> Self {
        for (key, route) in other.routes {
            let name = route.name;
            let old = self.routes.insert(key, route);
            assert!(old.is_none(), "{name} has two handlers");
        }
        self
    }
}

#[async_trait]
impl Handler for Router {
    async fn handle(&self, request: Incoming) -> Result<Vec<u8>, Status> {
        match self.routes.get(&(request.service, request.method)) {
            Some(route) => (route.run)(Arc::new(request)).await,
            None => Err(Status::new(
                StatusCode::Unsupported,
                format!(
                    "method {} of service {:?} is not served here",
                    request.method, request.service
                ),
            )),
        }
    }

    fn method_name(&self, service: Service, method: u16) -> Option<&'static str> {
        self.routes.get(&(service, method)).map(|route| route.name)
    }
}
