use super::*;

const HERE: &str = "http://127.0.0.1:5000";

fn catalog() -> Catalog {
    let regions = [("us-east-1", 9292), ("eu-west-1", 9293)];
    Catalog::new(HERE, &regions.map(|(name, port)| (name.to_owned(), format!("http://127.0.0.1:{port}"))))
}

struct Seen {
    status: u16,
    token: String,
    body: Value,
}

fn ask(method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Seen {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let response = respond(&catalog(), &head, body.to_string().as_bytes());
    let token = response.headers().get(SUBJECT_TOKEN).map_or("", |token| token.to_str().unwrap()).to_owned();
    let challenged = response.headers().contains_key(WWW_AUTHENTICATE);
    assert_eq!(challenged, response.status() == StatusCode::UNAUTHORIZED);
    let status = response.status().as_u16();
    let mut body = Box::pin(response.into_body().collect());
    let waker = std::task::Waker::noop();
    let std::task::Poll::Ready(Ok(body)) = body.as_mut().poll(&mut std::task::Context::from_waker(waker))
    else {
        panic!("a full body is ready at once")
    };
    Seen { status, token, body: serde_json::from_slice(&body.to_bytes()).unwrap() }
}

fn get(path: &str, token: &str) -> Seen {
    ask(Method::GET, path, &[("X-Auth-Token", token)], &Value::Null)
}

/// Logs in; `scope` as `auth.scope`.
fn login(user: &str, password: &str, scope: Value) -> Seen {
    let user = json!({"name": user, "domain": {"name": "Default"}, "password": password});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    ask(Method::POST, "/v3/auth/tokens", &[], &json!({"auth": {"identity": identity, "scope": scope}}))
}

#[test]
fn a_password_gives_the_development_token_of_a_project() {
    let named = |name: &str| json!({"project": {"name": name, "domain": {"id": "default"}}});
    for (user, scope, token) in [
        ("demo", Value::Null, "demo:demo:member,reader"),
        ("bob", named("partner"), "bob:partner:member,reader"),
        ("admin", named("admin"), "admin:admin:admin,member,reader"),
        ("admin", json!({"project": {"id": "demo"}}), "admin:demo:admin,member,reader"),
        ("reader", named("demo"), "reader:demo:reader"),
    ] {
        let seen = login(user, user, scope);
        assert_eq!((seen.status, seen.token.as_str()), (201, token));
        let body = &seen.body["token"];
        assert_eq!(body["user"]["id"], user);
        assert_eq!(body["project"]["name"], token.split(':').nth(1).unwrap());
        assert_eq!(body["roles"][0]["name"], token.split(':').nth(2).unwrap().split(',').next().unwrap());
    }
}

#[test]
fn strangers_wrong_passwords_and_foreign_projects_are_refused() {
    let elsewhere = json!({"project": {"name": "demo", "domain": {"name": "Elsewhere"}}});
    for (user, password, scope) in [
        ("mallory", "mallory", Value::Null),
        ("demo", "wrong", Value::Null),
        ("demo", "demo", json!({"project": {"name": "partner"}})),
        ("demo", "demo", json!({"system": {"all": true}})),
        ("demo", "demo", elsewhere),
    ] {
        let seen = login(user, password, scope);
        assert_eq!((seen.status, seen.token.as_str()), (401, ""), "{}", seen.body);
        assert!(seen.body["error"]["message"].is_string());
    }
    let methods = json!({"auth": {"identity": {"methods": ["totp"]}}});
    assert_eq!(ask(Method::POST, "/v3/auth/tokens", &[], &methods).status, 401);
}

#[test]
fn a_token_gives_one_for_another_project_of_its_user() {
    let identity = json!({"methods": ["token"], "token": {"id": "admin:admin:admin"}});
    let auth = json!({"auth": {"identity": identity, "scope": {"project": {"name": "partner"}}}});
    assert_eq!(ask(Method::POST, "/v3/auth/tokens", &[], &auth).token, "admin:partner:admin,member,reader");
}

#[test]
fn the_catalog_has_every_region() {
    let seen = login("demo", "demo", Value::Null);
    let services = seen.body["token"]["catalog"].as_array().unwrap();
    let urls = |kind: &str, region: &str| {
        let service = services.iter().find(|service| service["type"] == kind).unwrap();
        let endpoints = service["endpoints"].as_array().unwrap().iter();
        let here = endpoints.filter(|endpoint| endpoint["region"] == region);
        here.map(|endpoint| (endpoint["interface"].clone(), endpoint["url"].clone())).collect::<Vec<_>>()
    };
    let all = |url: &str| ["public", "internal", "admin"].map(|one| (json!(one), json!(url))).to_vec();
    assert_eq!(urls("image", "us-east-1"), all("http://127.0.0.1:9292"));
    assert_eq!(urls("image", "eu-west-1"), all("http://127.0.0.1:9293"));
    assert_eq!(urls("identity", "eu-west-1"), all("http://127.0.0.1:5000/v3"));
    assert_eq!(get("/v3/auth/catalog", &seen.token).body["catalog"], seen.body["token"]["catalog"]);
}

#[test]
fn a_token_is_validated() {
    let headers = [("X-Auth-Token", "demo:demo"), ("X-Subject-Token", "bob%3Apartner%3Amember")];
    let seen = ask(Method::GET, "/v3/auth/tokens", &headers, &Value::Null);
    assert_eq!((seen.status, seen.token.as_str()), (200, "bob:partner:member"));
    assert_eq!(ask(Method::GET, "/v3/auth/tokens", &headers[..1], &Value::Null).status, 404);
    assert_eq!(ask(Method::GET, "/v3/auth/tokens", &headers[1..], &Value::Null).status, 401);
}

#[test]
fn people_and_projects_are_found_by_id_and_by_name() {
    let names = |path: &str, kind: &str| -> Vec<String> {
        let seen = get(path, "admin:demo:admin");
        assert_eq!(seen.status, 200, "{path}");
        let things = seen.body[kind].as_array().unwrap();
        things.iter().map(|thing| thing["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/v3/projects", "projects"), ["demo", "partner", "admin"]);
    assert_eq!(names("/v3/projects?domain_id=default&name=partner", "projects"), ["partner"]);
    assert_eq!(names("/v3/projects?name=none", "projects"), [""; 0]);
    assert_eq!(names("/v3/auth/projects", "projects"), ["admin", "demo", "partner"]);
    assert_eq!(names("/v3/users?name=bob", "users"), ["bob"]);
    assert_eq!(names("/v3/domains", "domains"), ["Default"]);
    assert_eq!(get("/v3/projects/partner", "demo:demo").body["project"]["id"], "partner");
    assert_eq!(get("/v3/users/bob", "demo:demo").body["user"]["default_project_id"], "partner");
    assert_eq!(get("/v3/domains/default", "demo:demo").body["domain"]["name"], "Default");
    for path in ["/v3/projects/none", "/v3/users/mallory", "/v3/domains/none", "/v2.0/tokens", "/v3/roles"] {
        assert_eq!(get(path, "demo:demo").status, 404, "{path}");
    }
    assert_eq!(ask(Method::GET, "/v3/projects", &[], &Value::Null).status, 401);
    assert_eq!(ask(Method::DELETE, "/v3/projects/demo", &[], &Value::Null).status, 405);
}

#[test]
fn discovery_needs_no_token() {
    let seen = ask(Method::GET, "/", &[], &Value::Null);
    assert_eq!(seen.status, 300);
    assert_eq!(seen.body["versions"]["values"][0]["links"][0]["href"], "http://127.0.0.1:5000/v3/");
    let seen = ask(Method::GET, "/v3/", &[], &Value::Null);
    assert_eq!((seen.status, &seen.body["version"]["status"]), (200, &json!("stable")));
}
