//! The admin plane's own listeners: TCP with or without TLS, the local UNIX socket, and metrics.

use super::{Plane, routes};
use crate::config::{Admin, Metrics, Tls};
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Pause after a failed accept, such as for want of descriptors: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest head of a request, in bytes: tokens and cursors are short.
const MAX_HEAD: usize = 16 << 10;

/// Most header fields of a request.
const MAX_HEADERS: usize = 64;

/// Where a request came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The UNIX socket. Trusted are root and the gateway's own user.
    Local { uid: u32, trusted: bool },
    /// The admin listener.
    Remote { address: SocketAddr },
    /// The metrics listener.
    Metrics { address: SocketAddr },
    /// Not known.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Local { .. } => f.write_str("local"),
            Peer::Remote { address } | Peer::Metrics { address } => address.fmt(f),
            Peer::Unknown => f.write_str("unknown"),
        }
    }
}

/// The admin plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {what}: {error}{hint}")]
    Bind {
        /// The address or path.
        what: String,
        /// What the system said.
        error: std::io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// Another gateway has the UNIX socket.
    #[error("another gateway is running with the socket {0}: end it, or give this one another state_dir")]
    Running(String),
    /// Certificate or key cannot be used.
    #[error("TLS of the admin plane: {0}")]
    Tls(String),
    /// A configuration that must not be.
    #[error(
        "the admin plane does not listen on {0} without TLS, because it is not on the loopback interface"
    )]
    Unsafe(SocketAddr),
    /// A file of the state directory cannot be used.
    #[error("{0}")]
    State(String),
}

/// Bound sockets. The keeper may hold them over a restart of the worker.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The API on TCP.
    pub tcp: Option<std::net::TcpListener>,
    /// The API on the local socket.
    pub unix: Option<std::os::unix::net::UnixListener>,
    /// Metrics.
    pub metrics: Option<std::net::TcpListener>,
}

impl Listeners {
    /// Binds all that is configured and not there yet. Gives what could not be.
    pub fn bind_missing(&mut self, admin: &Admin, metrics: &Metrics) -> Vec<StartError> {
        let mut errors = Vec::new();
        // First, as it tells best that another gateway runs in the same place.
        if self.unix.is_none() {
            self.unix = bind_unix(&admin.socket).map_err(|error| errors.push(error)).ok();
        }
        if let (Some(listen), None) = (admin.listen, &self.tcp) {
            let bound = check_safe(listen, admin).and_then(|()| bind_tcp(listen));
            self.tcp = bound.map_err(|error| errors.push(error)).ok();
        }
        if let (Some(listen), None) = (metrics.listen, &self.metrics) {
            self.metrics = bind_tcp(listen).map_err(|error| errors.push(error)).ok();
        }
        errors
    }

    /// Binds all that is configured.
    #[cfg(test)]
    pub(crate) fn bind(admin: &Admin, metrics: &Metrics) -> Result<Self, StartError> {
        let mut listeners = Self::default();
        match listeners.bind_missing(admin, metrics).into_iter().next() {
            Some(error) => Err(error),
            None => Ok(listeners),
        }
    }
}

/// Refuses what would send tokens over a network in clear.
fn check_safe(listen: SocketAddr, admin: &Admin) -> Result<(), StartError> {
    if listen.ip().is_loopback() || admin.tls.is_some() {
        return Ok(());
    }
    Err(StartError::Unsafe(listen))
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            " (another process has it: end that one, or set another address under [admin])"
        }
        std::io::ErrorKind::PermissionDenied => {
            " (no permission: choose a port from 1024 on, or run as root)"
        }
        std::io::ErrorKind::AddrNotAvailable => " (no interface of this machine has the address)",
        _ => "",
    }
}

fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    std::net::TcpListener::bind(address).map_err(|error| StartError::Bind {
        what: address.to_string(),
        hint: hint(&error),
        error,
    })
}

fn bind_unix(path: &Path) -> Result<std::os::unix::net::UnixListener, StartError> {
    let what = path.display().to_string();
    let failed = |error: std::io::Error| StartError::Bind {
        what: what.clone(),
        hint: hint(&error),
        error,
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(StartError::Running(what));
    }
    // What nobody answers on is what a gateway that is gone left behind.
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
    // The peer's credentials decide; the mode only keeps others from trying.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// The server's certificate, which can be read anew while it is in use.
pub struct Certificate {
    files: Tls,
    current: ArcSwap<rustls::ServerConfig>,
}

impl Certificate {
    /// Reads certificate and key.
    pub fn load(files: &Tls) -> Result<Self, StartError> {
        Ok(Self {
            files: files.clone(),
            current: ArcSwap::new(read_certificate(files)?),
        })
    }

    /// Reads the files anew; what is in use stays where they cannot be used.
    pub(crate) fn reload(&self) -> Result<(), StartError> {
        self.current.store(read_certificate(&self.files)?);
        Ok(())
    }
}

fn read_certificate(files: &Tls) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&files.certificate)
        .map_err(|error| StartError::Tls(format!("certificate {certificate}: {error}")))?
        .collect();
    let chain = chain.map_err(|error| StartError::Tls(format!("certificate {certificate}: {error}")))?;
    let private = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| StartError::Tls(format!("key {key}: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Tls(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| StartError::Tls(format!("{certificate} with {key}: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves until `stop` says so, and then until the requests under way are answered. Event streams end with it.
pub(crate) async fn serve(
    plane: Arc<Plane>,
    listeners: Listeners,
    stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let api = routes::router(plane.clone());
    let metrics = routes::metrics_router(plane.clone());
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(listener) = listeners.tcp {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tasks.spawn(Server::new(&plane, api.clone(), stop.clone()).tcp(listener, plane.certificate()));
    }
    if let Some(listener) = listeners.unix {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tasks.spawn(Server::new(&plane, api, stop.clone()).unix(listener));
    }
    if let Some(listener) = listeners.metrics {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tasks.spawn(Server::new(&plane, metrics, stop).metrics(listener));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Waits until the admin plane is to end.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the plane is gone, which is the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One listener's connections.
struct Server {
    router: Router,
    places: Arc<Semaphore>,
    /// How many places there are.
    all: usize,
    timeout: Duration,
    stop: watch::Receiver<bool>,
}

impl Server {
    fn new(plane: &Plane, router: Router, stop: watch::Receiver<bool>) -> Self {
        let limits = plane.limits();
        Self {
            router,
            // Each listener has its own, so that clients on the network cannot lock out the local ones.
            places: Arc::new(Semaphore::new(limits.max_connections)),
            all: limits.max_connections,
            timeout: limits.request_timeout,
            stop,
        }
    }

    async fn tcp(mut self, listener: tokio::net::TcpListener, certificate: Option<Arc<Certificate>>) {
        self.accept_tcp(listener, certificate).await;
        self.last_answers().await;
    }

    async fn accept_tcp(&mut self, listener: tokio::net::TcpListener, certificate: Option<Arc<Certificate>>) {
        while let Some((stream, address)) = self.accept(|context| listener.poll_accept(context)).await {
            let Some(place) = self.place() else { continue };
            let peer = Peer::Remote { address };
            let _ = stream.set_nodelay(true);
            self.limit_silence(&stream);
            let serve = self.connection(peer, place);
            let Some(certificate) = &certificate else {
                tokio::spawn(serve.run(stream));
                continue;
            };
            let acceptor = TlsAcceptor::from(certificate.current.load_full());
            let timeout = self.timeout;
            tokio::spawn(async move {
                if let Ok(Ok(stream)) = tokio::time::timeout(timeout, acceptor.accept(stream)).await {
                    serve.run(stream).await;
                }
            });
        }
    }

    async fn unix(mut self, listener: tokio::net::UnixListener) {
        self.accept_unix(listener).await;
        self.last_answers().await;
    }

    async fn accept_unix(&mut self, listener: tokio::net::UnixListener) {
        let own = rustix::process::geteuid().as_raw();
        while let Some((stream, _)) = self.accept(|context| listener.poll_accept(context)).await {
            let Some(place) = self.place() else { continue };
            let Ok(credentials) = stream.peer_cred() else {
                continue;
            };
            let uid = credentials.uid();
            let trusted = uid == own || uid == 0;
            tokio::spawn(self.connection(Peer::Local { uid, trusted }, place).run(stream));
        }
    }

    async fn metrics(mut self, listener: tokio::net::TcpListener) {
        while let Some((stream, address)) = self.accept(|context| listener.poll_accept(context)).await {
            let Some(place) = self.place() else { continue };
            self.limit_silence(&stream);
            tokio::spawn(self.connection(Peer::Metrics { address }, place).run(stream));
        }
        self.last_answers().await;
    }

    /// The next connection; `None`: the gateway ends.
    async fn accept<T>(
        &mut self,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<std::io::Result<T>>,
    ) -> Option<T> {
        loop {
            tokio::select! {
                () = stopped(&mut self.stop) => return None,
                accepted = std::future::poll_fn(&mut accept) => match accepted {
                    Ok(accepted) => return Some(accepted),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
            }
        }
    }

    /// Waits until every connection is over: each has the place that it was given.
    async fn last_answers(self) {
        let all = u32::try_from(self.all).unwrap_or(u32::MAX);
        // An error means that nobody can have a place, which is the same.
        let _ = self.places.acquire_many(all).await;
    }

    /// Has the kernel end a connection whose peer takes none of an answer for too long: it would keep its place for
    /// ever (RFC 5482, 4.1).
    fn limit_silence(&self, stream: &tokio::net::TcpStream) {
        let millis = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        // Where it cannot be set the connection is gone already.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    fn connection(&self, peer: Peer, place: OwnedSemaphorePermit) -> Connection {
        Connection {
            router: self.router.clone(),
            peer,
            timeout: self.timeout,
            stop: self.stop.clone(),
            _place: place,
        }
    }
}

/// One connection.
struct Connection {
    router: Router,
    peer: Peer,
    timeout: Duration,
    stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (router, peer) = (self.router, self.peer);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let router = router.clone();
            async move { tower_service(router, request.map(Body::new)).await }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeout)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // A client that goes away or speaks no HTTP is nothing to report.
            _ = &mut connection => return,
            () = stopped(&mut self.stop) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(self.timeout, connection).await;
    }
}

async fn tower_service(
    mut router: Router,
    request: Request<Body>,
) -> Result<axum::http::Response<Body>, std::convert::Infallible> {
    use tower_service::Service;
    router.call(request).await
}
