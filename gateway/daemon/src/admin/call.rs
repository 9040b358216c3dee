//! One request on its way through the API: its parameters, its body, and answers to it.

use super::Plane;
use super::problem::{Code, Detail, Problem};
use super::server::Peer;
use super::tokens::{self, Scope};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;

/// Items of a page where nothing is said.
const DEFAULT_PAGE: usize = 100;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As the audit log names it.
    pub(crate) who: String,
    /// What it may do.
    pub(crate) scopes: Vec<Scope>,
    /// The id of its token, where it has one.
    pub(crate) token: Option<String>,
}

impl Caller {
    /// Finds out who asks: the local socket's peer by its credentials, everyone else by a bearer token.
    pub(crate) fn identify(plane: &Plane, peer: &Peer, headers: &HeaderMap) -> Option<Self> {
        if let Some(header) = headers.get(header::AUTHORIZATION) {
            let (scheme, presented) = header.to_str().ok()?.split_once(' ')?;
            let bearer = scheme.eq_ignore_ascii_case("bearer");
            let token = plane.tokens().verify(presented.trim()).filter(|_| bearer)?;
            return Some(Self {
                who: format!("token:{}", token.id),
                scopes: token.scopes,
                token: Some(token.id),
            });
        }
        match peer {
            Peer::Local { uid, trusted: true } => Some(Self {
                who: format!("local:uid={uid}"),
                scopes: vec![Scope::Admin],
                token: None,
            }),
            _ => None,
        }
    }

    /// Whether it may do what needs a scope.
    pub(crate) fn allows(&self, scope: Scope) -> bool {
        tokens::allows(&self.scopes, scope)
    }
}

/// One admitted request.
pub(crate) struct Call {
    pub(crate) plane: Arc<Plane>,
    /// The id of the caller's token, where it has one.
    pub(crate) token: Option<String>,
    /// The placeholders of the path, without the action after the last one.
    pub(crate) path: Vec<(String, String)>,
    /// The path as it was asked for, for links.
    pub(crate) target: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// A placeholder of the path.
    pub(crate) fn param(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The id in the path: a text that is none names nothing there is.
    pub(crate) fn id<T: FromStr>(&self, what: &str) -> Result<T, Problem> {
        self.param("id").parse().map_err(|_| Problem::not_found(what))
    }

    /// A reader of the query.
    pub(crate) fn params(&self) -> Params<'_> {
        Params {
            query: &self.query,
            errors: RefCell::new(Vec::new()),
        }
    }

    /// The body, read as JSON. An empty one reads as `{}`.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        let kind = self.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if !self.body.is_empty() && !kind.is_some_and(|kind| kind.starts_with(b"application/json")) {
            let detail = "send it with Content-Type: application/json";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        // An array would be read as the members of the object in their order.
        if body
            .trim_ascii_start()
            .first()
            .is_some_and(|first| *first == b'[')
        {
            return Err(Problem::invalid(vec![Detail {
                pointer: "#".to_owned(),
                detail: "must be an object".to_owned(),
            }]));
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| Detail {
            pointer: pointer(error.path()),
            detail: error.inner().to_string(),
        });
        let read = read.and_then(|read| {
            reader.end().map(|()| read).map_err(|error| Detail {
                pointer: "#".to_owned(),
                detail: error.to_string(),
            })
        });
        read.map_err(|detail| Problem::invalid(vec![detail]))
    }

    /// One page of a list, with its `Link` header.
    pub(crate) fn page<T: Serialize>(
        &self,
        items: &[T],
        next: Option<String>,
    ) -> Result<Response<Body>, Problem> {
        #[derive(Serialize)]
        struct Page<'a, T> {
            items: &'a [T],
            next: Option<&'a str>,
        }
        let next_page = next.as_deref();
        let mut response = json(
            StatusCode::OK,
            &Page {
                items,
                next: next_page,
            },
        )?;
        if let Some(cursor) = next_page {
            let mut link = format!("<{}?", self.target);
            for (name, value) in self.query.iter().filter(|(name, _)| name != "cursor") {
                let _ = write!(link, "{}={}&", escape(name), escape(value));
            }
            let _ = write!(link, "cursor={}>; rel=\"next\"", escape(cursor));
            if let Ok(link) = HeaderValue::from_str(&link) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        Ok(response)
    }
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold("#".to_owned(), |mut text, segment| {
        let _ = match segment {
            Segment::Seq { index } => write!(text, "/{index}"),
            Segment::Map { key } => write!(text, "/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => write!(text, "/{variant}"),
            Segment::Unknown => Ok(()),
        };
        text
    })
}

/// Percent-encodes what is not unreserved in a URI (RFC 3986, 2.3).
pub(crate) fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Reads the query and finds everything that is wrong with it.
pub(crate) struct Params<'a> {
    query: &'a [(String, String)],
    errors: RefCell<Vec<Detail>>,
}

impl Params<'_> {
    /// A parameter as text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    }

    /// A parameter that reads as a `T`; `wanted` says what that is: "an address".
    pub(crate) fn parsed<T: FromStr>(&self, name: &str, wanted: &str) -> Option<T> {
        let text = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(name, wanted);
        }
        parsed
    }

    /// A number in a range.
    pub(crate) fn number(&self, name: &str, default: usize, most: usize) -> usize {
        let wanted = format!("a whole number up to {most}");
        let number = self.parsed(name, &wanted).unwrap_or(default);
        if number > most {
            self.wrong(name, &wanted);
        }
        number.min(most)
    }

    /// The size of a page.
    pub(crate) fn limit(&self) -> usize {
        let wanted = format!("a whole number from 1 to {}", sluice_core::MAX_PAGE);
        let limit = self.parsed("limit", &wanted).unwrap_or(DEFAULT_PAGE);
        if !(1..=sluice_core::MAX_PAGE).contains(&limit) {
            self.wrong("limit", &wanted);
        }
        limit
    }

    fn wrong(&self, name: &str, wanted: &str) {
        self.errors.borrow_mut().push(Detail {
            pointer: format!("?{name}"),
            detail: format!("must be {wanted}"),
        });
    }

    /// Everything that was wrong, if anything.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        let errors = self.errors.into_inner();
        if errors.is_empty() {
            return Ok(());
        }
        Err(Problem::invalid(errors))
    }
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response<Body>, Problem> {
    let text = serde_json::to_vec(body).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(raw(status, "application/json", text))
}

/// An answer of any kind.
pub(crate) fn raw(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Says where what was made is to be found.
pub(crate) fn located(mut response: Response<Body>, path: &str) -> Response<Body> {
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}

/// What the audit log says about a change besides what was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Noted(pub(crate) String);

/// Adds to an answer what the audit log is to say about the change. Holds no secret.
pub(crate) fn noted(mut response: Response<Body>, note: String) -> Response<Body> {
    response.extensions_mut().insert(Noted(note));
    response
}

/// An answer that says only that it is done.
pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
