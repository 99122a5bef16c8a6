//! The long-lived half of the shim: serves containerd on the listener that is its standard input, and sends it events.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixListener},
    sync::Arc,
    time::Duration,
};

use containerd_shim_protos::{
    api::ForwardRequest,
    shim::event::Envelope,
    shim_async::{Client, EventsClient, create_task},
    ttrpc::{
        asynchronous::{Server, transport::Listener},
        context,
    },
};
use tokio_stream::{Stream, StreamExt};

use super::{
    args::Args,
    bundle::orders_folder,
    service::{TaskService, any, timestamp},
    start::remove_if_there,
    task::Tasks,
};
use crate::containerd::proto::events;

/// The service as containerd's messages name it, and the name older containerd and Kata use for the same.
const NEW: &str = "containerd.task.v3.Task";
const OLD: &str = "containerd.task.v2.Task";
/// How long the last answer has to reach containerd before this process ends.
const GRACE: Duration = Duration::from_millis(20);
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn serve(args: &Args) -> io::Result<()> {
    // One thread: the VMM ends with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: &Args) -> io::Result<()> {
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let socket = listener.local_addr()?.as_pathname().map(std::path::Path::to_owned);
    let tasks = Arc::new(Tasks::new(&args.id, orders_folder(&std::env::current_dir()?))?);
    if let Some(address) = std::env::var_os("TTRPC_ADDRESS") {
        let envelopes = tasks.node.events.envelopes();
        tokio::spawn(forward(format!("unix://{}", address.display()), args.namespace.clone(), envelopes));
    }
    let mut services = create_task(Arc::new(TaskService(Arc::clone(&tasks))));
    let service = services.remove(NEW).ok_or_else(|| io::Error::other("no task service"))?;
    services.insert(OLD.to_owned(), service);
    let mut server = Server::new().add_listener(Listener::try_from(listener)?).register_service(services);
    server.start().await.map_err(io::Error::other)?;
    tasks.done.cancelled().await;
    tokio::time::sleep(GRACE).await;
    socket.map_or(Ok(()), |socket| remove_if_there(&socket))
}

/// Events of tasks; those of containers are containerd's own. What cannot be sent is lost, as from a real shim.
async fn forward(address: String, namespace: String, envelopes: impl Stream<Item = events::Envelope>) {
    let mut client = None;
    tokio::pin!(envelopes);
    while let Some(envelope) = envelopes.next().await {
        if !envelope.topic.starts_with("/tasks/") {
            continue;
        }
        if client.is_none() {
            client = Client::connect(&address).await.ok().map(EventsClient::new);
        }
        let Some(connected) = &client else {
            continue;
        };
        let time = context::with_duration(EVENT_TIMEOUT);
        if let Err(error) = connected.forward(time, &request(envelope, &namespace)).await {
            eprintln!("forward an event: {error}");
            client = None;
        }
    }
}

fn request(from: events::Envelope, namespace: &str) -> ForwardRequest {
    let mut envelope = Envelope::new();
    if let Some(time) = from.timestamp {
        envelope.set_timestamp(timestamp(time.seconds * 1_000_000_000 + i64::from(time.nanos)));
    }
    envelope.set_namespace(namespace.to_owned());
    envelope.set_topic(from.topic);
    if let Some(event) = from.event {
        envelope.set_event(any(event));
    }
    let mut request = ForwardRequest::new();
    request.set_envelope(envelope);
    request
}
