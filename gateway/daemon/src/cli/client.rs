//! A small HTTP client for the admin plane: one connection a command, over the local socket, TCP or TLS.

use super::Failure;
use super::args::Arguments;
use super::trust::trust;
use crate::config::{Config, Modules};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where a gateway's socket is looked for where nothing is said: that of the embedded default in this directory,
/// then that of the system's service.
const SOCKETS: [&str; 2] = ["sluice-state/admin.sock", "/var/lib/sluice/admin.sock"];

/// Longest time to connect, or to wait for an answer to begin.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// How a gateway is reached: as the command line says.
#[derive(Clone, Copy)]
pub(super) struct Reach<'a> {
    pub(super) arguments: &'a Arguments,
    pub(super) modules: Modules<'a>,
}

impl Reach<'_> {
    /// Connects.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        Client::connect(self.arguments, self.modules).await
    }
}

/// A connection to a gateway.
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    token: Option<String>,
}

/// An answer that is no stream.
pub(super) struct Answer {
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` where there is none.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::Refused(format!("the gateway's answer is no JSON: {error}")))
    }
}

impl Client {
    /// Connects as the command line says.
    async fn connect(arguments: &Arguments, modules: Modules<'_>) -> Result<Self, Failure> {
        let token = arguments
            .token
            .clone()
            .or_else(|| std::env::var("SLUICE_TOKEN").ok());
        let connecting = async {
            match &arguments.url {
                Some(url) => connect_url(url, arguments.ca.as_deref(), token).await,
                None => connect_socket(&socket(arguments, modules)?, arguments.token.clone()).await,
            }
        };
        tokio::time::timeout(PATIENCE, connecting)
            .await
            .unwrap_or_else(|_| Err(Failure::Unreachable("the gateway does not answer".to_owned())))
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: String,
        token: Option<String>,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        tokio::spawn(async move {
            // What goes wrong on the connection is told by the request that waits for its answer.
            let _ = connection.await;
        });
        Ok(Self { sender, host, token })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(ACCEPT, "*/*");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes));
        request.map_err(|error| Failure::Usage(format!("no request can be made of this: {error}")))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        self.sender.ready().await.map_err(lost)?;
        let late = || Failure::Unreachable("the gateway does not answer in time".to_owned());
        let answer = tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await;
        answer.map_err(|_| late())?.map_err(lost)
    }

    /// Asks, and reads the whole answer. An error of the gateway is a failure in its words.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let request = self.request(method, path, body)?;
        let response = self.send(request).await?;
        let status = response.status();
        let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let body = limited.collect().await;
        let body = body.map_err(|error| Failure::Unreachable(format!("the connection broke: {error}")))?;
        let answer = Answer {
            body: body.to_bytes(),
        };
        if status.is_success() {
            return Ok(answer);
        }
        Err(refusal(status, &answer, self.token.is_some()))
    }

    /// Asks for a stream.
    pub(super) async fn follow(&mut self, path: &str, last: Option<&str>) -> Result<Incoming, Failure> {
        let mut request = self.request(Method::GET, path, None)?;
        if let Some(last) = last.and_then(|last| last.parse().ok()) {
            request.headers_mut().insert("last-event-id", last);
        }
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map_err(lost)?;
        Err(refusal(
            status,
            &Answer {
                body: body.to_bytes(),
            },
            self.token.is_some(),
        ))
    }
}

fn lost(error: hyper::Error) -> Failure {
    Failure::Unreachable(format!("the connection to the gateway broke: {error}"))
}

fn refusal(status: hyper::StatusCode, answer: &Answer, had_token: bool) -> Failure {
    let problem = answer.json().unwrap_or_default();
    let said = problem.get("detail").and_then(Value::as_str);
    let said = said.map_or_else(|| format!("the gateway answers {status}"), str::to_owned);
    let errors = problem.get("errors").and_then(Value::as_array);
    let errors = errors.into_iter().flatten().map(|error| {
        let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        format!("{}: {}", part("pointer"), part("detail"))
    });
    let mut text = said.clone();
    // The only one there is may be said already.
    for error in errors.filter(|error| *error != said) {
        text.push_str(&format!("\n{error}"));
    }
    match status.as_u16() {
        401 if !had_token => {
            let hint = "no token was given: put one into $SLUICE_TOKEN (sluice tokens add makes one)";
            Failure::Forbidden(hint.to_owned())
        }
        401 | 403 => Failure::Forbidden(text),
        _ => Failure::Refused(text),
    }
}

/// The UNIX socket to use.
fn socket(arguments: &Arguments, modules: Modules<'_>) -> Result<PathBuf, Failure> {
    if let Some(path) = &arguments.socket {
        return Ok(path.clone());
    }
    if let Some(path) = std::env::var_os("SLUICE_SOCKET") {
        return Ok(PathBuf::from(path));
    }
    if let Some(file) = &arguments.gateway_config {
        let config = Config::load(Some(file), modules).map_err(|error| Failure::Usage(error.to_string()))?;
        return Ok(config.admin.socket);
    }
    let found = SOCKETS.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        let places = SOCKETS.join(" nor ");
        Failure::Unreachable(format!(
            "no gateway is running here (there is neither {places}): start one with sluice run, or say where its \
             socket is with --socket"
        ))
    })
}

async fn connect_socket(path: &Path, token: Option<String>) -> Result<Client, Failure> {
    let shown = path.display();
    let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Failure::Forbidden(format!(
            "no permission for the socket {shown}: run this as root or as the gateway's user, or use --url with a \
             token"
        )),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Failure::Unreachable(format!(
            "no gateway is running with the socket {shown}: start it with sluice run, or name another with --socket"
        )),
        _ => Failure::Unreachable(format!("the socket {shown}: {error}")),
    })?;
    Client::over(stream, "localhost".to_owned(), token).await
}

async fn connect_url(url: &str, ca: Option<&Path>, token: Option<String>) -> Result<Client, Failure> {
    let wrong = || Failure::Usage(format!("{url:?} is no URL such as https://gw.example:8701"));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let (scheme, authority) = (uri.scheme_str(), uri.authority().ok_or_else(wrong)?);
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let tls = match scheme {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !tls && !loopback {
        let text = "over a network only https is used, because the token must not cross it in clear";
        return Err(Failure::Usage(text.to_owned()));
    }
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let unreachable = |error: std::io::Error| Failure::Unreachable(format!("{url}: {error}"));
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(unreachable)?;
    if !tls {
        return Client::over(stream, authority.to_string(), token).await;
    }
    let Some(ca) = ca else {
        let text = "name the certificates to trust with --ca: the gateway's own certificate will do";
        return Err(Failure::Usage(text.to_owned()));
    };
    let name = ServerName::try_from(host).map_err(|_| wrong())?;
    let connector = tokio_rustls::TlsConnector::from(trust(ca)?);
    let stream = connector.connect(name, stream).await.map_err(unreachable)?;
    Client::over(stream, authority.to_string(), token).await
}
