use super::*;

const BOUNDS: Overload = Overload { floor: 4, ceiling: 10, target: Duration::from_millis(10), per_backend: 10 };

fn admission() -> Admission {
    Admission::new(&BOUNDS, &Metrics::new("edge", 0))
}

#[test]
fn each_priority_has_its_share_and_the_least_limit_lets_everybody_in() {
    for (limit, shares) in [(4, [2, 3, 4]), (10, [5, 9, 10]), (64, [32, 58, 64]), (1000, [500, 900, 1000])] {
        assert_eq!(Priority::ALL.map(|priority| place::share(limit, priority)), shares, "{limit}");
    }
}

#[tokio::test]
async fn low_is_refused_first_and_critical_last() {
    let admission = admission();
    let mut places = Vec::new();
    for (priority, places_there_are) in [(Priority::Low, 5), (Priority::Normal, 9), (Priority::Critical, 10)] {
        while let Ok(place) = admission.enter(priority, None).await {
            places.push(place);
        }
        assert_eq!(places.len(), places_there_are, "{priority}");
    }
    let refused = admission.enter(Priority::Critical, None).await.unwrap_err();
    assert!(refused.by == Bound::Gateway && (500..1500).contains(&refused.retry_after.as_millis()), "{refused:?}");
    places.truncate(4);
    assert!(admission.enter(Priority::Low, None).await.is_ok());
}

#[tokio::test]
async fn who_waits_for_a_backend_takes_no_place_and_comes_back_without_asking() {
    let admission = admission();
    let room = admission.room();
    let mut places = Vec::new();
    for _ in 0..9 {
        places.push(admission.enter(Priority::Normal, Some(&room)).await.unwrap());
    }
    let refused = admission.enter(Priority::Normal, None).await.unwrap_err();
    assert_eq!(refused.by, Bound::Gateway);
    let mut waiting = places.iter_mut().map(|place| Box::pin(place.outside(std::future::pending::<()>()))).collect::<Vec<_>>();
    for waiting in &mut waiting {
        assert!(futures_util::poll!(waiting).is_pending());
    }
    assert_eq!(admission.0.inside.count(), 0);
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(admission.enter(Priority::Normal, Some(&room)).await.unwrap());
    }
    drop(waiting);
    assert_eq!(admission.0.inside.count(), 18, "those who come back are not asked");
    drop((places, others));
    assert_eq!((admission.0.inside.count(), room.taken()), (0, 0));
}

#[tokio::test]
async fn a_seat_is_taken_by_who_is_sent_and_not_by_who_is_let_in() {
    let admission = admission();
    let room = admission.room();
    let patience = Duration::from_mins(10);
    let mut seats = Vec::new();
    for _ in 0..9 {
        let _refused_later = admission.enter(Priority::Normal, Some(&room)).await.expect("who is only let in takes none");
        seats.push(admission.seat(Priority::Normal, &room, patience).await.unwrap());
    }
    let refused = admission.enter(Priority::Normal, Some(&room)).await.unwrap_err();
    assert_eq!((refused.by, admission.0.inside.count()), (Bound::Backend, 0), "that one has enough to do");
    assert!(admission.enter(Priority::Normal, Some(&admission.room())).await.is_ok(), "another has not");
    assert!(admission.enter(Priority::Critical, Some(&room)).await.is_ok());
    let refused = admission.seat(Priority::Normal, &room, Duration::ZERO).await.unwrap_err();
    assert_eq!(refused.by, Bound::Backend);
    let mut waiting = Box::pin(admission.seat(Priority::Normal, &room, patience));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    seats.pop();
    seats.push(waiting.await.expect("one became free"));
    assert!(admission.enter(Priority::Normal, Some(&room)).await.is_err());
    drop(seats);
    assert_eq!(room.taken(), 0);
}

#[tokio::test]
async fn a_seat_is_waited_for_as_long_as_there_is_time() {
    let admission = admission();
    let room = admission.room();
    let mut seats = Vec::new();
    while let Ok(seat) = admission.seat(Priority::Critical, &room, Duration::ZERO).await {
        seats.push(seat);
    }
    let begun = Instant::now();
    let patience = Duration::from_millis(30);
    let refused = admission.seat(Priority::Critical, &room, patience).await.unwrap_err();
    assert!(refused.by == Bound::Backend && begun.elapsed() >= patience, "{refused:?}");
    assert_eq!((seats.len(), room.waiting()), (10, 0));
    assert_eq!(admission.0.metrics.refused.with_label_values(&["critical", "backend"]).get(), 2);
}

#[tokio::test]
async fn bounds_can_change_while_places_are_taken() {
    let admission = admission();
    let room = admission.room();
    let place = admission.enter(Priority::Low, Some(&room)).await.unwrap();
    let seat = admission.seat(Priority::Low, &room, Duration::ZERO).await.unwrap();
    admission.adjust(&Overload { ceiling: 4, per_backend: 4, ..BOUNDS });
    admission.renew(&room);
    let (mut places, mut seats) = (vec![place], vec![seat]);
    while let Ok(place) = admission.enter(Priority::Critical, Some(&room)).await {
        places.push(place);
    }
    while let Ok(seat) = admission.seat(Priority::Critical, &room, Duration::ZERO).await {
        seats.push(seat);
    }
    assert_eq!((places.len(), seats.len()), (4, 4));
}
