use std::sync::Arc;

use super::{
    House, PATIENCE, execute,
    fake::{Act, Fake},
    grpc, read, until,
};

#[tokio::test]
async fn a_reload_keeps_what_is_unchanged_and_ends_what_is_gone() {
    let (kept, gone) = (Fake::start(Act::Message(vec![8, 1].into())).await, Fake::start(Act::Message(vec![8, 1].into())).await);
    let check = "health_check.interval = \"20ms\"\nhealth_check.timeout = \"10s\"";
    let other = |fake: &Fake| grpc(&[fake.address()], check).replace("orders", "stock");
    let house = House::of(&format!("{}{}", grpc(&[kept.address()], check), other(&gone)));
    until("both are connected to", async || kept.open() == 1 && gone.open() == 1).await;
    let before = house.orders();

    house.backends.reload(&read(&grpc(&[kept.address()], check)));
    assert!(Arc::ptr_eq(&before, &house.orders()), "the same, with all it knows");
    assert!(house.backends.get("stock").is_none());
    until("its tasks and connections end", async || gone.open() == 0).await;
    assert!(!house.metrics.text().contains("circuit_breaker_state{backend=\"stock\""));
    assert_eq!((kept.open(), kept.accepted()), (1, 1));

    house.backends.reload(&read(&grpc(&[kept.address()], "timeout = \"1s\"")));
    assert!(!Arc::ptr_eq(&before, &house.orders()), "another configuration is another backend");
    assert_eq!(house.metric("backend_endpoints", "healthy"), 1);
    drop(before);
    until("the one before ends", async || kept.open() == 0).await;
}

#[tokio::test]
async fn a_command_on_its_way_ends_as_it_began() {
    let fake = Fake::start(Act::Hang).await;
    let house = House::grpc(&[fake.address()], "");
    let orders = house.orders();
    let mut command = tokio::task::JoinSet::new();
    command.spawn(async move { execute(&orders, b"first", false, PATIENCE, None).await.map(|answer| answer.payload_bytes) });
    until("it is on its way", async || fake.requests() == 1).await;
    house.backends.reload(&[]);
    assert!(house.backends.get("orders").is_none() && house.backends.circuits().is_empty());
    assert_eq!(fake.open(), 1, "its connection stays for it");
    command.shutdown().await;
    until("and ends with it", async || fake.open() == 0).await;
}
