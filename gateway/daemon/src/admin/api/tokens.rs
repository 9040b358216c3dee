//! Tokens.

use super::{Result, blocking};
use crate::admin::call::{Call, json, located, no_content, noted};
use crate::admin::problem::{Code, Problem};
use crate::admin::tokens::{MAX_NOTE, Scope, Token, TokenError};
use crate::admin::views;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::time::SystemTime;
use utoipa::ToSchema;

/// A token, without what would let anyone use it.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(crate) struct TokenView {
    id: String,
    scopes: Vec<Scope>,
    note: String,
    created: String,
}

impl From<&Token> for TokenView {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id.clone(),
            scopes: token.scopes.clone(),
            note: token.note.clone(),
            created: token.created.clone(),
        }
    }
}

fn problem(error: TokenError) -> Problem {
    let code = match error {
        TokenError::TooMany => Code::Conflict,
        _ => Code::Unavailable,
    };
    Problem::new(code, error.to_string())
}

pub(crate) async fn list(call: Call) -> Result {
    let views: Vec<TokenView> = call.plane.tokens().list().iter().map(TokenView::from).collect();
    call.page(&views, None)
}

/// A new token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateToken)]
pub(crate) struct Create {
    scopes: Vec<Scope>,
    /// What it is for.
    #[serde(default)]
    note: String,
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedToken)]
pub(crate) struct Created {
    /// The token itself: keep it, it is not shown again.
    token: String,
    #[serde(flatten)]
    kept: TokenView,
}

pub(crate) async fn create(call: Call) -> Result {
    let Create { mut scopes, note } = call.json()?;
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Problem::member("scopes", "must name one at least"));
    }
    if note.len() > MAX_NOTE || note.chars().any(char::is_control) {
        let rule = format!("may have {MAX_NOTE} bytes at most and no control characters");
        return Err(Problem::member("note", rule));
    }
    let (plane, now) = (call.plane.clone(), views::time(SystemTime::now()));
    let made = blocking(move || plane.tokens().create(scopes, &note, &now)).await?;
    let (token, secret) = made.map_err(problem)?;
    let created = Created {
        token: String::from_utf8_lossy(secret.expose()).into_owned(),
        kept: TokenView::from(&token),
    };
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let answer = json(StatusCode::CREATED, &created)?;
    let answer = located(answer, &format!("/v1/tokens/{}", token.id));
    Ok(noted(answer, format!("scopes: {}", scopes.join(", "))))
}

pub(crate) async fn delete(call: Call) -> Result {
    let (plane, id) = (call.plane.clone(), call.param("id").to_owned());
    let deleted = blocking(move || plane.tokens().delete(&id)).await?;
    match deleted.map_err(problem)? {
        true => Ok(no_content()),
        false => Err(Problem::not_found("such token")),
    }
}
