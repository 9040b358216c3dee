//! The description of the API (OpenAPI 3.1), made from the list of operations and the types they carry.

use super::operations::{Access, OPERATIONS, Operation, Reply};
use super::problem::{Code, PROBLEM_JSON, ProblemBody};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The schemas that were referred to.
#[derive(Default)]
pub(crate) struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Adds a type with all types in it, and gives a reference to it.
    pub(crate) fn add<T: utoipa::ToSchema>(&mut self) -> Value {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            let schema = serde_json::to_value(schema).unwrap_or_default();
            self.0.insert(name, schema);
        }
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }
}

/// The whole description.
pub fn document() -> Value {
    let mut schemas = Schemas::default();
    let problem = schemas.add::<ProblemBody>();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        let described = describe(operation, &mut schemas);
        let methods = paths.entry(operation.path).or_default();
        methods.insert(operation.method.as_str().to_ascii_lowercase(), described);
    }
    let codes: Vec<String> = Code::ALL
        .iter()
        .map(|code| {
            format!(
                "`urn:sluice:problem:{}` ({})",
                code.as_str(),
                code.status().as_u16()
            )
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": format!(
                "The admin plane of a Sluice gateway. Times are RFC 3339 in UTC, identifiers are opaque text. Lists \
                 are paged: ask with `cursor` = `next` until `next` is null. Errors are problem details (RFC 9457) \
                 of these types: {}.",
                codes.join(", ")
            ),
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.0,
            "securitySchemes": { "token": {
                "type": "http", "scheme": "bearer", "bearerFormat": "sluice_<id>_<random>",
                "description": "A token of this gateway. The local UNIX socket needs none from root and from the \
                                gateway's own user.",
            } },
            "responses": { "Problem": {
                "description": "What is wrong",
                "content": { PROBLEM_JSON: { "schema": problem } },
            } },
        },
    })
}

/// The description as it is committed: with line breaks, and ending in one.
pub fn text() -> String {
    format!("{:#}\n", document())
}

fn describe(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.text,
        "parameters": parameters(operation),
        "responses": {
            operation.status.to_string(): success(operation, schemas),
            "default": { "$ref": "#/components/responses/Problem" },
        },
    });
    let Some(object) = described.as_object_mut() else {
        return described;
    };
    match operation.access {
        Access::Open => {
            object.insert("security".to_owned(), json!([]));
        }
        Access::Metrics => {
            let text = "On the metrics listener no token is needed; elsewhere one with the scope `read`.";
            object.insert("description".to_owned(), json!(text));
        }
        Access::Scope(scope) => {
            let text = format!("Needs the scope `{}`.", scope.as_str());
            object.insert("description".to_owned(), json!(text));
        }
    }
    if let Some(body) = operation.body {
        let schema = body(schemas);
        let body = json!({ "content": { "application/json": { "schema": schema } } });
        object.insert("requestBody".to_owned(), body);
    }
    described
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let placeholders = operation.path.split('{').skip(1);
    let names = placeholders.filter_map(|rest| rest.split('}').next());
    let path = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let query = operation.query.iter().map(|param| {
        json!({
            "name": param.name, "in": "query", "description": param.text, "schema": { "type": param.kind },
        })
    });
    path.chain(query).collect()
}

fn success(operation: &Operation, schemas: &mut Schemas) -> Value {
    let (kind, schema) = match &operation.reply {
        Reply::Empty => return json!({ "description": "Done" }),
        Reply::Json(schema) => ("application/json", schema(schemas)),
        Reply::Media(kind @ "application/json") => (*kind, json!({ "type": "object" })),
        Reply::Media(kind) => (*kind, json!({ "type": "string" })),
        Reply::Page(schema) => {
            let page = json!({
                "type": "object",
                "required": ["items", "next"],
                "properties": {
                    "items": { "type": "array", "items": schema(schemas) },
                    "next": {
                        "type": ["string", "null"],
                        "description": "The cursor of the next page; null: this is the last",
                    },
                },
            });
            ("application/json", page)
        }
    };
    json!({ "description": "Done", "content": { kind: { "schema": schema } } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

    /// Rewrites the committed file when `SLUICE_BLESS` is set, and compares it otherwise.
    #[test]
    fn the_committed_description_is_the_served_one() {
        if std::env::var_os("SLUICE_BLESS").is_some() {
            std::fs::write(COMMITTED, text()).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap();
        assert!(
            committed == text(),
            "gateway/docs/openapi.json is out of date: run SLUICE_BLESS=1 cargo test -p sluice openapi"
        );
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(array) => array.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn all_references_lead_somewhere_and_names_are_unique() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let ids: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
        assert!(OPERATIONS.iter().all(|operation| !operation.text.is_empty()));
    }
}
