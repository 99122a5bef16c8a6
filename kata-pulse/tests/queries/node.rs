//! The node under test: HTTP servers of the kubelet and of kube-state-metrics, and agents, all telling of one [`World`].
//! In: the world. Out: addresses to scrape. Whether the agents are real is decided by what starts them.

use std::sync::{Arc, RwLock};
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::agent_page::{self, Shown};
use crate::real::RealNode;
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
    servers: JoinSet<std::io::Result<()>>,
    real: Option<RealNode>,
}

impl SimulatedNode {
    /// With real agents, which see the Kata pods on a simulated node.
    pub async fn real(world: World) -> Self {
        let real = RealNode::start(&world).await;
        Self { real: Some(real), ..Self::printed(world).await }
    }

    /// With pages of ours in the agents' place.
    pub async fn printed(world: World) -> Self {
        let (world, began) = (Arc::new(RwLock::new(world)), Instant::now());
        let mut servers = JoinSet::new();
        let told = |page: fn(&World, f64) -> String| {
            let world = Arc::clone(&world);
            move || page(&world.read().unwrap(), began.elapsed().as_secs_f64())
        };
        let kubelet = serve(&mut servers, told(kubelet::page)).await;
        let kubelet_from_cri = serve(&mut servers, told(kubelet::page_from_cri)).await;
        let kube_state = serve(&mut servers, told(|world, _| kube_state::page(world))).await;
        Self { world, began, kubelet, kubelet_from_cri, kube_state, servers, real: None }
    }

    /// Starts an agent and says where its `/metrics` is. Each scraper has its own: an agent follows the rhythm of one.
    pub async fn agent(&mut self, shown: Shown) -> String {
        if let Some(real) = &mut self.real {
            return real.agent(shown).await;
        }
        let (world, began) = (Arc::clone(&self.world), self.began);
        let page = move || agent_page::page(&world.read().unwrap(), shown, began.elapsed().as_secs_f64());
        serve(&mut self.servers, page).await
    }

    /// The truth of this moment.
    pub fn world(&self) -> World {
        self.world.read().unwrap().clone()
    }

    /// Seconds since the test began, the clock of the truth.
    pub fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// What the agents did to the node, if they are real: shims killed, questions to every shim.
    pub fn harm(&self) -> (u64, u64) {
        self.real.as_ref().map_or((0, 0), RealNode::harm)
    }

    /// A container dies and comes again.
    pub fn restart(&self) {
        let mut world = self.world.write().unwrap();
        let id = match &self.real {
            Some(real) => real.restart(world.sandbox_of(RESTARTED.0), RESTARTED.1),
            None => format!("{:064x}", u128::MAX),
        };
        world.restart(RESTARTED, id, self.now());
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
