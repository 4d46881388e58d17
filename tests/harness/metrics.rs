//! What programs count of themselves.

use std::net::SocketAddr;

/// The value of one series that is told at `metrics`, 0 where it does not exist.
pub async fn counted(metrics: SocketAddr, series: &str) -> f64 {
    let url = format!("http://{metrics}/metrics");
    let told = reqwest::get(url).await.expect("metrics").text().await.expect("text");
    let value = told.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}
