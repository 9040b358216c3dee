//! Errors as the API tells them: `application/problem+json` (RFC 9457).

use super::control::ControlError;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use sluice_auth_backends::{ChangeError, UsersError};

/// The media type of a problem.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// What kind of problem it is: a closed list, stable over releases.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All codes, for the documentation.
            pub(crate) const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code as the API tells it.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The HTTP status it goes with.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }

            fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// Parameters or body are not as documented; `errors` says which.
    InvalidRequest = "invalid_request", BAD_REQUEST, "The request is not valid";
    /// No token, or one that is not known.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A valid token is needed";
    /// The token's scopes do not allow it.
    Forbidden = "forbidden", FORBIDDEN, "The token does not allow this";
    /// There is no such thing.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// The path is right, the method is not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The client was too slow.
    Timeout = "timeout", REQUEST_TIMEOUT, "The request took too long";
    /// The present state does not allow it.
    Conflict = "conflict", CONFLICT, "In conflict with the present state";
    /// The body is too long.
    TooLarge = "too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body is of no known kind.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON";
    /// Something unexpected; the log has the request's id.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something went wrong in the gateway";
    /// A part of the gateway cannot answer now.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Not available now";
}

/// One thing wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Detail {
    /// A JSON pointer into the body (`#/peer`), or the name of a parameter (`?limit`), or a place in a
    /// configuration (`sluice.toml:3:5`).
    pub(crate) pointer: String,
    /// What is wrong with it.
    pub(crate) detail: String,
}

impl From<sluice_spi::config::Problem> for Detail {
    fn from(problem: sluice_spi::config::Problem) -> Self {
        Self {
            pointer: format!("{}:{}:{}", problem.file, problem.line, problem.column),
            detail: match problem.key.as_str() {
                "" => problem.message,
                key => format!("{key}: {}", problem.message),
            },
        }
    }
}

/// An error on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: String,
    pub(crate) errors: Vec<Detail>,
}

/// A problem as RFC 9457 shows it.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// A name of the kind of problem that never changes, such as `urn:sluice:problem:not_found`.
    #[serde(rename = "type")]
    kind: String,
    /// The same in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time, and what to do about it.
    detail: String,
    /// The kind of problem as one word.
    code: &'static str,
    /// The request, as the log and the audit log name it.
    request_id: String,
    /// Everything that is wrong with the request, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Detail>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }

    /// A request with errors in it.
    pub(crate) fn invalid(errors: Vec<Detail>) -> Self {
        let detail = errors.first().map_or_else(String::new, |first| {
            let more = match errors.len() {
                0 | 1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            format!("{}: {}{more}", first.pointer, first.detail)
        });
        Self {
            code: Code::InvalidRequest,
            detail,
            errors,
        }
    }

    /// A request with one member of its body wrong.
    pub(crate) fn member(member: &str, detail: impl Into<String>) -> Self {
        Self::invalid(vec![Detail {
            pointer: format!("#/{member}"),
            detail: detail.into(),
        }])
    }

    /// The answer for the client.
    pub(crate) fn into_response(self, request_id: &str) -> Response<Body> {
        let body = ProblemBody {
            kind: format!("urn:sluice:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: self.detail,
            code: self.code.as_str(),
            request_id: request_id.to_owned(),
            errors: self.errors,
        };
        let text = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotFound(text) => Self::new(Code::NotFound, text),
            ControlError::Conflict(text) => Self::new(Code::Conflict, text),
            ControlError::Unavailable(text) => Self::new(Code::Unavailable, text),
            ControlError::Invalid { member, message } => Self::member(member, message),
        }
    }
}

impl From<UsersError> for Problem {
    fn from(error: UsersError) -> Self {
        let text = error.to_string();
        if let UsersError::Invalid(problems) = error {
            return Self::invalid(problems.into_iter().map(Detail::from).collect());
        }
        let code = match error {
            UsersError::Exists(_) | UsersError::Changed(_) => Code::Conflict,
            UsersError::Unknown(_) => Code::NotFound,
            // The file itself: somebody has to mend it first.
            _ => Code::Unavailable,
        };
        Self::new(code, text)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Users(error) => error.into(),
            ChangeError::Weak(weak) => Self::member("password", weak.to_string()),
            ChangeError::Pool(error) => Self::new(Code::Unavailable, error.to_string()),
            ChangeError::Keys(error) => Self::new(Code::Unavailable, error.to_string()),
        }
    }
}
