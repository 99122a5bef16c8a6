//! The node under test: HTTP servers of the kubelet, of kube-state-metrics and of the agent, all telling of one
//! [`World`]. In: the world. Out: addresses to scrape. [`SimulatedNode::printed`] prints the agent's pages too.

use std::sync::{Arc, RwLock};
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::agent_page::{self, Shown};
use crate::truth::{RESTARTED, World};
use crate::{kube_state, kubelet};

/// Dropping it ends the servers.
pub struct SimulatedNode {
    world: Arc<RwLock<World>>,
    began: Instant,
    /// `/metrics/cadvisor` of the kubelet.
    pub kubelet: String,
    /// The same page of a kubelet that asks the runtime.
    pub kubelet_from_cri: String,
    /// `/metrics` of kube-state-metrics.
    pub kube_state: String,
    /// `/metrics` of an agent with no flags.
    pub agent: String,
    /// `/metrics` of an agent with `--levels container --disable-metrics network`.
    pub agent_for_kubelets_job: String,
    /// `/metrics` of an agent with `--levels pod --disable-metrics network`.
    pub agent_of_pods: String,
    _servers: JoinSet<std::io::Result<()>>,
}

impl SimulatedNode {
    /// With pages of ours in the agent's place.
    pub async fn printed(world: World) -> Self {
        let (world, began) = (Arc::new(RwLock::new(world)), Instant::now());
        let mut servers = JoinSet::new();
        let agent = |shown| {
            let world = Arc::clone(&world);
            move || agent_page::page(&world.read().unwrap(), shown, began.elapsed().as_secs_f64())
        };
        let agent_address = serve(&mut servers, agent(Shown::ALL)).await;
        let agent_for_kubelets_job = serve(&mut servers, agent(Shown::FOR_KUBELETS_JOB)).await;
        let agent_of_pods = serve(&mut servers, agent(Shown::PODS)).await;
        let told = Arc::clone(&world);
        let from_cri = move || kubelet::page_from_cri(&told.read().unwrap(), began.elapsed().as_secs_f64());
        let kubelet_from_cri = serve(&mut servers, from_cri).await;
        let told = Arc::clone(&world);
        let kubelet =
            serve(&mut servers, move || kubelet::page(&told.read().unwrap(), began.elapsed().as_secs_f64())).await;
        let told = Arc::clone(&world);
        let kube_state = serve(&mut servers, move || kube_state::page(&told.read().unwrap())).await;
        Self {
            world,
            began,
            kubelet,
            kubelet_from_cri,
            kube_state,
            agent: agent_address,
            agent_for_kubelets_job,
            agent_of_pods,
            _servers: servers,
        }
    }

    /// The truth of this moment.
    pub fn world(&self) -> World {
        self.world.read().unwrap().clone()
    }

    /// Seconds since the test began, the clock of the truth.
    pub fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub fn restart(&self) {
        self.world.write().unwrap().restart(RESTARTED, self.now());
    }
}

async fn serve(
    servers: &mut JoinSet<std::io::Result<()>>,
    page: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let route = get(move || async move { page() });
    let router = Router::new().route("/metrics", route.clone()).route("/metrics/cadvisor", route);
    servers.spawn(async move { axum::serve(listener, router).await });
    address
}
