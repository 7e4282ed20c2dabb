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
    let backend = admission.backend();
    let mut places = Vec::new();
    for _ in 0..9 {
        places.push(admission.enter(Priority::Normal, Some(&backend)).await.unwrap());
    }
    let refused = admission.enter(Priority::Normal, None).await.unwrap_err();
    assert_eq!(refused.by, Bound::Gateway);
    let mut waiting = places.iter_mut().map(|place| Box::pin(place.outside(std::future::pending::<()>()))).collect::<Vec<_>>();
    for waiting in &mut waiting {
        assert!(futures_util::poll!(waiting).is_pending());
    }
    assert_eq!(admission.0.inside.count(), 0);
    let refused = admission.enter(Priority::Normal, Some(&backend)).await.unwrap_err();
    assert_eq!(refused.by, Bound::Backend, "that one has enough to do");
    let other = admission.backend();
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(admission.enter(Priority::Normal, Some(&other)).await.unwrap());
    }
    drop(waiting);
    assert_eq!(admission.0.inside.count(), 18, "those who come back are not asked");
    drop((places, others));
    assert_eq!([&admission.0.inside, &backend, &other].map(Within::count), [0; 3]);
}

#[tokio::test]
async fn bounds_can_change_while_places_are_taken() {
    let admission = admission();
    let backend = admission.backend();
    let place = admission.enter(Priority::Low, Some(&backend)).await.unwrap();
    admission.adjust(&Overload { ceiling: 4, per_backend: 4, ..BOUNDS });
    admission.renew(&backend);
    let mut places = vec![place];
    while let Ok(place) = admission.enter(Priority::Critical, Some(&backend)).await {
        places.push(place);
    }
    assert_eq!(places.len(), 4);
}
