//! A containerd with more pods than fit into one message: the whole list fails, one by id does not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use prost::Message;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};

/// What the server needs of CRI: by number, as on the wire.
mod messages {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Question {
        /// Of a list: the filter.
        #[prost(message, optional, tag = "1")]
        pub filter: Option<Filter>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Filter {
        #[prost(string, tag = "1")]
        pub id: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Nothing {}
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Version {
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(string, tag = "3")]
        pub version: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WithInfo {
        #[prost(map = "string, string", tag = "2")]
        pub info: std::collections::HashMap<String, String>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct List {
        #[prost(message, repeated, tag = "1")]
        pub items: Vec<Pod>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Pod {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(message, optional, tag = "2")]
        pub metadata: Option<Metadata>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metadata {
        #[prost(string, tag = "1")]
        pub name: String,
    }
}
use messages::{List, Metadata, Nothing, Pod, Question, Version, WithInfo};

#[derive(Clone)]
pub struct Crowded {
    pub whole_lists: Arc<AtomicU64>,
    pub filtered_lists: Arc<AtomicU64>,
    config: String,
}

impl Crowded {
    /// Every pod is called `pod of <id>`; `config` is what `Status` tells.
    pub fn start(socket: &Path, config: &str) -> Self {
        let server = Self { whole_lists: Arc::default(), filtered_lists: Arc::default(), config: config.into() };
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let serving = tonic::transport::Server::builder().add_service(server.clone());
        tokio::spawn(serving.serve_with_incoming(UnixListenerStream::new(listener)));
        server
    }

    fn list(&self, question: Question) -> Result<List, Status> {
        let Some(filter) = question.filter else {
            self.whole_lists.fetch_add(1, Ordering::Relaxed);
            return Err(Status::resource_exhausted("trying to send message larger than max (20000000 vs. 16777216)"));
        };
        self.filtered_lists.fetch_add(1, Ordering::Relaxed);
        let named = |id: &str| Pod { id: id.into(), metadata: Some(Metadata { name: format!("pod of {id}") }) };
        // As a runtime's filter does, it also finds one that only begins so.
        let longer = format!("{}-longer", filter.id);
        let known = !filter.id.contains("without");
        Ok(List { items: if known { vec![named(&longer), named(&filter.id)] } else { Vec::new() } })
    }
}

impl NamedService for Crowded {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl Service<http::Request<Body>> for Crowded {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let me = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path().rsplit('/').next() {
                Some("Version") => {
                    let version = Version { name: "containerd".into(), version: "2.1.4".into() };
                    answer(request, move |_: Nothing| Ok(version.clone())).await
                }
                Some("Status") => {
                    let info = HashMap::from([("config".to_owned(), me.config.clone())]);
                    answer(request, move |_: Nothing| Ok(WithInfo { info: info.clone() })).await
                }
                Some("ListPodSandbox") => answer(request, move |question| me.list(question)).await,
                // No container runs anywhere.
                Some("ListContainers") => answer(request, |_: Nothing| Ok(Nothing {})).await,
                Some("PodSandboxStatus") => answer(request, |_: Nothing| Ok(WithInfo::default())).await,
                _ => Status::unimplemented("not of this server").into_http(),
            })
        })
    }
}

struct Unary<F>(F);

impl<Q: Message, A, F: Fn(Q) -> Result<A, Status>> Service<Request<Q>> for Unary<F> {
    type Response = Response<A>;
    type Error = Status;
    type Future = std::future::Ready<Result<Response<A>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        std::future::ready((self.0)(request.into_inner()).map(Response::new))
    }
}

async fn answer<Q, A>(
    request: http::Request<Body>,
    answer: impl Fn(Q) -> Result<A, Status> + Send + 'static,
) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    Grpc::new(tonic_prost::ProstCodec::<A, Q>::default()).unary(Unary(answer), request).await
}
