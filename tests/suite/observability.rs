//! What was cut off is counted as what it was.

use harness::{Answer, Edge, token, until};
use memoric_config::schema::Seconds;
use memoric_contract::Role;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

#[tokio::test]
async fn an_answer_that_is_cut_off_is_counted_by_its_status() {
    let edge = Edge::with(|settings| settings.gateway.timeouts.exchange = Seconds::whole(5)).await;
    edge.origin.answer_with(|_| Answer::ok("application/json", &vec![b' '; 32 << 20]));
    let mut client = TcpStream::connect(edge.http).await.unwrap();
    let token = token(7, &[Role::User]);
    let request = format!(
        "GET /memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    );

    client.write_all(request.as_bytes()).await.unwrap();

    // The client reads nothing, until its time is over.
    let cut = r#"memoric_gateway_requests_total{code="-",operation="recall_memories",outcome="forwarded",status="200"}"#;
    until("it is counted", async || edge.counted(cut).await == 1.0).await;
}
