//! The short-lived commands: `start` puts the shim into the background and says where it listens, `delete` cleans up
//! behind it, `-info` says who it is.

use std::{
    env, fs,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::DirBuilderExt, net::UnixListener, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use containerd_shim_protos::{api::DeleteResponse, protobuf::Message as _};
use prost::Message as _;

use super::{
    args::Args,
    bundle::{Bundle, orders_folder},
    orders::Orders,
};
use crate::{container::id_of, kind::Kind, node::Node, workload::unix_now_ns};

/// What `-info` answers; containerd 2 asks.
#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeInfo {
    #[prost(string, tag = "1")]
    name: String,
}

pub(super) fn info() -> io::Result<()> {
    io::stdout().write_all(&RuntimeInfo { name: "io.containerd.kata.v2".to_owned() }.encode_to_vec())
}

/// In the bundle: for a container the address of its sandbox's shim, for a sandbox a new shim.
pub(super) fn start(args: &Args) -> io::Result<()> {
    let bundle = env::current_dir()?;
    let address = match Bundle::read(&bundle)?.sandbox() {
        Some(sandbox) => fs::read_to_string(bundle.with_file_name(sandbox).join("address"))?,
        None => daemonise(args, &bundle)?,
    };
    fs::write(bundle.join("address"), &address)?;
    io::stdout().write_all(address.as_bytes())
}

/// The listener becomes the shim's standard input: nobody has to wait until it serves. Its other streams are closed,
/// as containerd waits for the end of them.
fn daemonise(args: &Args, bundle: &Path) -> io::Result<String> {
    let folder = orders_folder(bundle);
    let sockets = Orders::read(&folder, &args.id)?.sockets;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&sockets)?;
    let socket = sockets.join(id_of(&format!("{}/{}", args.address, args.namespace), &args.id, 0));
    remove_if_there(&socket)?;
    let listener = UnixListener::bind(&socket)?;
    let errors = fs::File::options().create(true).append(true).open(folder.join("shim.log"))?;
    let shim = Command::new(env::current_exe()?)
        .args(env::args().skip(1).filter(|argument| argument != "start"))
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(errors))
        .process_group(0)
        .spawn()?;
    fs::write(bundle.join("shim.pid"), shim.id().to_string())?;
    Ok(format!("unix://{}", socket.display()))
}

/// After the last connection to the shim ended, in whatever way: for a sandbox, what it may have left.
pub(super) fn delete(args: &Args) -> io::Result<()> {
    if let Ok(bundle) = Bundle::read(&args.bundle)
        && bundle.sandbox().is_none()
    {
        clean(args)?;
    }
    let mut answer = DeleteResponse::new();
    answer.set_exit_status(137);
    answer.set_exited_at(super::service::timestamp(unix_now_ns()));
    let bytes = answer.write_to_bytes().map_err(io::Error::other)?;
    io::stdout().write_all(&bytes)
}

fn clean(args: &Args) -> io::Result<()> {
    let orders = Orders::read(&orders_folder(&args.bundle), &args.id)?;
    let kind: Kind = orders.kind.parse().map_err(io::Error::other)?;
    let folder = Node::new(&orders.root).sandbox_dir(kind.runtime, &args.id);
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    if let Ok(address) = fs::read_to_string(args.bundle.join("address")) {
        remove_if_there(&PathBuf::from(address.trim_start_matches("unix://")))?;
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
