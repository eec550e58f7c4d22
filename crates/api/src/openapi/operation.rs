//! One method of one path, and how it is written down.

use serde_json::{Map, Value, json};

use super::reference;
use crate::images::upload::OCTETS;

/// A request's body.
pub(super) enum Takes {
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// A change of an image, in one of two dialects.
    Patch,
    /// An image's bytes.
    Octets,
}

/// What an answer's body is.
#[derive(Clone, Copy)]
pub(super) enum Holds {
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    Text,
}

struct Answer {
    status: u16,
    description: &'static str,
    holds: Holds,
    /// Headers that are always there, beside those of every answer.
    headers: &'static [&'static str],
}

/// One method of one path.
pub(super) struct Operation {
    tag: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<Value>,
    takes: Takes,
    answers: Vec<Answer>,
    refused: Vec<u16>,
    is_open: bool,
}

/// What anybody who has to be known may be answered.
const REFUSED: [u16; 4] = [401, 403, 500, 503];

impl Operation {
    pub(super) fn new(tag: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            tag,
            id,
            summary,
            description: "",
            parameters: Vec::new(),
            takes: Takes::Nothing,
            answers: Vec::new(),
            refused: REFUSED.into(),
            is_open: false,
        }
    }

    /// For anybody, without authentication.
    pub(super) fn open(self) -> Self {
        Self { is_open: true, refused: Vec::new(), ..self }
    }

    pub(super) fn about(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    pub(super) fn with(self, parameters: Vec<Value>) -> Self {
        Self { parameters, ..self }
    }

    pub(super) fn takes(self, takes: Takes) -> Self {
        Self { takes, ..self }
    }

    pub(super) fn answers(mut self, status: u16, description: &'static str, holds: Holds) -> Self {
        self.answers.push(Answer { status, description, holds, headers: &[] });
        self
    }

    /// Headers of the answer that was described last.
    pub(super) fn and_headers(mut self, headers: &'static [&'static str]) -> Self {
        if let Some(last) = self.answers.last_mut() {
            last.headers = headers;
        }
        self
    }

    /// Statuses that refuse, beside those of every call.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refused.extend(statuses);
        self
    }

    /// As OpenAPI has it.
    pub(super) fn document(self) -> Value {
        let mut answers: Map<String, Value> = self
            .refused
            .iter()
            .map(|status| (status.to_string(), reference("responses", &status.to_string())))
            .collect();
        answers.extend(self.answers.iter().map(|answer| (answer.status.to_string(), answer.document())));
        let mut operation = json!({
            "tags": [self.tag], "operationId": self.id, "summary": self.summary, "responses": answers,
        });
        if !self.description.is_empty() {
            operation["description"] = self.description.into();
        }
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.into();
        }
        if self.is_open {
            operation["security"] = json!([]);
        }
        if let Some(body) = self.takes.document() {
            operation["requestBody"] = body;
        }
        operation
    }
}

impl Takes {
    fn document(&self) -> Option<Value> {
        let of = |name: &str| json!({"schema": reference("schemas", name)});
        let content = match self {
            Self::Nothing => return None,
            Self::Json(name) => json!({"application/json": of(name)}),
            Self::Patch => json!({
                "application/openstack-images-v2.1-json-patch": of("patch"),
                "application/openstack-images-v2.0-json-patch": of("oldPatch"),
            }),
            Self::Octets => json!({OCTETS: {"schema": {"type": "string", "format": "binary"}}}),
        };
        Some(json!({"required": true, "content": content}))
    }
}

impl Answer {
    fn document(&self) -> Value {
        let mut headers = json!({"x-openstack-request-id": reference("headers", "x-openstack-request-id")});
        for name in self.headers {
            headers[*name] = reference("headers", name);
        }
        let mut answer = json!({"description": self.description, "headers": headers});
        match self.holds {
            Holds::Nothing => {}
            Holds::Json(name) => {
                answer["content"] = json!({"application/json": {"schema": reference("schemas", name)}});
            }
            Holds::Text => answer["content"] = json!({"text/plain": {"schema": {"type": "string"}}}),
        }
        answer
    }
}
