//! The lines of the guide that a shell can run, and what has to come of each.

use serde_json::Value;

use super::{
    Promise::{Answers, NotYet},
    Row,
};

pub(super) fn rows() -> Vec<Row> {
    vec![
        // 33: `uvicorn.run(app, port=8000)` is the gateway itself; 27: authentication and audit cannot be switched off.
        Row {
            line: 33,
            command: "curl http://localhost:8000/",
            promise: Answers(200, |body| body["status"] == "ok"),
        },
        Row {
            line: 29,
            command: "curl http://localhost:8000/health/detailed",
            promise: Answers(200, |body| body["features"]["audit_logging"] == "enabled"),
        },
        Row {
            line: 28,
            command: "curl http://localhost:8000/memories",
            promise: Answers(401, |body| body["status"] == 401),
        },
        Row {
            line: 94,
            command: r#"curl -X POST http://localhost:8000/auth/login -H "Content-Type: application/json" -d '{"username": "user1", "password": "user_password_456"}'"#,
            promise: Answers(200, |body| {
                body["token_type"] == "bearer"
                    && body["expires_in"] == 3600
                    && body["access_token"].is_string()
            }),
        },
        Row {
            line: 111,
            command: r#"curl http://localhost:8000/memories -H "Authorization: Bearer {token}""#,
            promise: Answers(200, Value::is_array),
        },
        // 120: create_api_key(user_id="user-123", name=…, expires_days=90); the user is who asks.
        Row {
            line: 120,
            command: r#"curl -X POST http://localhost:8000/auth/api-keys -H "Authorization: Bearer {token}" -H "Content-Type: application/json" -d '{"name": "production-api-key", "expires_days": 90}'"#,
            promise: Answers(201, |body| {
                body["api_key"].as_str().is_some_and(|key| key.starts_with("mk_"))
                    && body["name"] == "production-api-key"
                    && body["expires_at"].is_string()
            }),
        },
        Row {
            line: 131,
            command: r#"curl http://localhost:8000/memories -H "X-API-Key: {api_key}""#,
            promise: Answers(200, Value::is_array),
        },
        Row {
            line: 131,
            command: r#"curl http://localhost:8000/memories -H "X-API-Key: your-api-key-here""#,
            promise: Answers(401, |body| body["status"] == 401),
        },
        Row {
            line: 255,
            command: r#"curl -X POST http://localhost:8000/auth/api-keys/{key_id}/rotate -H "Authorization: Bearer {token}""#,
            promise: Answers(200, |body| {
                body["api_key"].as_str().is_some_and(|key| key.starts_with("mk_"))
            }),
        },
        // 145 logs user1 in with "password"; line 71 made that account with user_password_456, which is substituted.
        // As printed there is no Content-Type, so curl sends that of a form.
        Row {
            line: 145,
            command: r#"curl -X POST http://localhost:8000/auth/login -d '{"username": "user1", "password": "user_password_456"}'"#,
            promise: Answers(200, |body| body["refresh_token"].is_string()),
        },
        Row {
            line: 145,
            command: r#"curl -X POST http://localhost:8000/auth/login -d '{"username": "user1", "password": "password"}'"#,
            promise: Answers(401, |body| body["detail"] == "Invalid credentials"),
        },
        Row {
            line: 149,
            command: r#"curl -X POST http://localhost:8000/auth/refresh -H "Authorization: Bearer {refresh_token}""#,
            promise: Answers(200, |body| {
                body["access_token"].is_string()
                    && body["refresh_token"].is_string()
                    && body["expires_in"] == 3600
            }),
        },
        Row {
            line: 156,
            command: r#"curl -X POST http://localhost:8000/auth/logout -H "Authorization: Bearer {other_token}""#,
            promise: Answers(200, |body| body["message"].is_string()),
        },
        Row {
            line: 156,
            command: r#"curl http://localhost:8000/memories -H "Authorization: Bearer {other_token}""#,
            promise: Answers(401, |body| body["status"] == 401),
        },
        // 211: users can only access their own memories, unless they are admins.
        Row {
            line: 211,
            command: r#"curl "http://localhost:8000/memories?user_id=1" -H "Authorization: Bearer {token}""#,
            promise: Answers(403, |body| body["detail"] == "Insufficient permissions"),
        },
        Row {
            line: 211,
            command: r#"curl "http://localhost:8000/memories?user_id={user_id}" -H "Authorization: Bearer {admin_token}""#,
            promise: Answers(200, Value::is_array),
        },
        Row {
            line: 81,
            command: r#"curl http://localhost:8000/users -H "Authorization: Bearer {admin_token}""#,
            promise: Answers(200, |body| body.to_string().contains("user1@example.com")),
        },
        Row {
            line: 82,
            command: r#"curl http://localhost:8000/users -H "Authorization: Bearer {token}""#,
            promise: Answers(403, |body| body["detail"] == "Insufficient permissions"),
        },
        Row {
            line: 81,
            command: r#"curl -X POST http://localhost:8000/memories -H "Authorization: Bearer {admin_token}" -H "Content-Type: application/json" -d '{"content": "theirs", "user_id": {user_id}}'"#,
            promise: Answers(200, |body| body["id"].is_i64()),
        },
        Row {
            line: 81,
            command: r#"curl -X POST http://localhost:8000/users -H "Authorization: Bearer {admin_token}" -H "Content-Type: application/json" -d '{"username": "user2", "email": "user2@example.com", "password": "user_password_789"}'"#,
            promise: Answers(201, |body| body["username"] == "user2"),
        },
        Row {
            line: 82,
            command: r#"curl -X POST http://localhost:8000/users -H "Authorization: Bearer {token}" -H "Content-Type: application/json" -d '{"username": "user3", "email": "user3@example.com", "password": "user_password_789"}'"#,
            promise: Answers(403, |body| body["detail"] == "Insufficient permissions"),
        },
        Row {
            line: 82,
            command: r#"curl -X POST http://localhost:8000/memories -H "Authorization: Bearer {token}" -H "Content-Type: application/json" -d '{"content": "theirs", "user_id": 1}'"#,
            promise: Answers(403, |body| body["detail"] == "Insufficient permissions"),
        },
        Row {
            line: 81,
            command: r#"curl -X POST http://localhost:8000/policies/run -H "Authorization: Bearer {admin_token}""#,
            promise: NotYet,
        },
        Row {
            line: 82,
            command: r#"curl -X POST http://localhost:8000/memories -H "Authorization: Bearer {token}" -H "Content-Type: application/json" -d '{"content": "mine"}'"#,
            promise: Answers(200, |body| body["id"].is_i64()),
        },
        Row {
            line: 82,
            command: r#"curl -X POST http://localhost:8000/policies/run -H "Authorization: Bearer {token}""#,
            promise: Answers(403, |body| body["detail"] == "Insufficient permissions"),
        },
        Row {
            line: 83,
            command: r#"curl http://localhost:8000/memories -H "Authorization: Bearer {readonly_token}""#,
            promise: Answers(200, Value::is_array),
        },
        Row {
            line: 83,
            command: r#"curl -X POST http://localhost:8000/memories -H "Authorization: Bearer {readonly_token}" -H "Content-Type: application/json" -d '{"content": "mine"}'"#,
            promise: Answers(403, |body| body["detail"] == "Insufficient permissions"),
        },
        // 239: the URL is unquoted in the guide; a shell without a file that matches takes it as it is.
        Row {
            line: 239,
            command: r#"curl http://localhost:8000/audit/logs?limit=50 -H "Authorization: Bearer {admin_token}""#,
            promise: Answers(200, |body| {
                body["limit"] == 50 && body["logs"].is_array() && body["total"].as_i64() >= Some(1)
            }),
        },
        Row {
            line: 228,
            command: r#"curl "http://localhost:8000/audit/logs?event_type=auth.login.success" -H "Authorization: Bearer {admin_token}""#,
            promise: Answers(200, |body| body["logs"][0]["event_type"] == "auth.login.success"),
        },
        Row {
            line: 229,
            command: r#"curl "http://localhost:8000/audit/logs?event_type=auth.login.failed" -H "Authorization: Bearer {admin_token}""#,
            promise: Answers(200, |body| body["logs"][0]["success"] == false),
        },
        Row {
            line: 230,
            command: r#"curl "http://localhost:8000/audit/logs?event_type=memory.created" -H "Authorization: Bearer {admin_token}""#,
            promise: Answers(200, |body| body["logs"][0]["event_type"] == "memory.created"),
        },
        Row {
            line: 238,
            command: r#"curl http://localhost:8000/audit/logs -H "Authorization: Bearer {token}""#,
            promise: Answers(403, |body| body["detail"] == "Insufficient permissions"),
        },
        Row {
            line: 256,
            command: r#"curl http://localhost:8000/audit/logs/security -H "Authorization: Bearer {admin_token}""#,
            promise: Answers(200, |body| body["logs"].is_array()),
        },
        // 257: a policy is also which passwords are refused.
        Row {
            line: 257,
            command: r#"curl -X POST http://localhost:8000/auth/change-password -H "Authorization: Bearer {token}" -H "Content-Type: application/json" -d '{"old_password": "user_password_456", "new_password": "password1234"}'"#,
            promise: Answers(422, |body| body["errors"][0]["code"] == "common"),
        },
        Row {
            line: 258,
            command: r#"curl -X OPTIONS http://localhost:8000/memories -H "Origin: https://elsewhere.example" -H "Access-Control-Request-Method: GET""#,
            promise: Answers(403, |_| true),
        },
        // 285, 336: metrics have an address of their own, which is not for clients.
        Row {
            line: 285,
            command: "curl http://{metrics}/metrics",
            promise: Answers(200, |_| true),
        },
        Row {
            line: 311,
            command: "curl http://localhost:8000/health",
            promise: Answers(200, |body| body["status"] == "healthy"),
        },
        Row {
            line: 312,
            command: "curl http://localhost:8000/ready",
            promise: Answers(200, |body| body["status"] == "healthy"),
        },
        Row {
            line: 313,
            command: "curl http://localhost:8000/health/detailed",
            promise: Answers(200, |body| body["features"]["authentication"] == "enabled"),
        },
        // 382: an hour later.
        Row {
            line: 382,
            command: r#"curl http://localhost:8000/memories -H "Authorization: Bearer {expired_token}""#,
            promise: Answers(401, |body| body["detail"] == "Token expired"),
        },
        Row { line: 400, command: "curl http://localhost:8000/openapi.json", promise: NotYet },
    ]
}
