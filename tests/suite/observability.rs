//! What those who run it can see, and what nobody can.

use std::time::Duration;

use harness::{Answer, Edge, token};
use memoric_config::schema::Seconds;
use memoric_contract::Role;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, sleep},
};

#[tokio::test]
async fn an_answer_that_is_cut_off_is_counted_by_its_status() {
    let edge = Edge::with(|settings| settings.gateway.timeouts.exchange = Seconds::whole(2)).await;
    edge.origin.answer_with(|_| Answer::ok("application/json", &vec![b' '; 32 << 20]));
    let mut client = TcpStream::connect(edge.http).await.unwrap();
    let token = token(7, &[Role::User]);
    let request = format!(
        "GET /memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    );

    client.write_all(request.as_bytes()).await.unwrap();

    // The client reads nothing, until its time is over.
    let cut = r#"memoric_gateway_requests_total{code="-",operation="recall_memories",outcome="forwarded",status="200"}"#;
    eventually(async || edge.counted(cut).await == 1.0).await;
}

async fn eventually(is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < SOON, "it is not so after {SOON:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Long after anything that is awaited.
const SOON: Duration = Duration::from_secs(20);
