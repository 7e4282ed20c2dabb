use super::*;

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";

/// The cases of the recommendation's own test suite (`w3c/trace-context`, `test/test.py`), by the ends of their names.
#[test]
fn traceparents_are_believed_as_the_recommendation_s_test_suite_has_it() {
    let valid = format!("00-{TRACE}-{SPAN}-01");
    for (name, text, believed) in [
        ("both", valid.clone(), true),
        ("not sampled", format!("00-{TRACE}-{SPAN}-00"), true),
        ("version_0x00 with more", format!("00-{TRACE}-{SPAN}-01."), false),
        ("version_0x00 with more", format!("00-{TRACE}-{SPAN}-01-what-the-future-will-be-like"), false),
        ("version_0xcc", format!("cc-{TRACE}-{SPAN}-01"), true),
        ("version_0xcc with more", format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"), true),
        ("version_0xcc without hyphen", format!("cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like"), false),
        ("version_0xff", format!("ff-{TRACE}-{SPAN}-01"), false),
        ("version_illegal_characters", format!(".0-{TRACE}-{SPAN}-01"), false),
        ("version_illegal_characters", format!("0.-{TRACE}-{SPAN}-01"), false),
        ("version_too_long", format!("000-{TRACE}-{SPAN}-01"), false),
        ("version_too_short", format!("0-{TRACE}-{SPAN}-01"), false),
        ("trace_id_all_zero", format!("00-{}-{SPAN}-01", "0".repeat(32)), false),
        ("trace_id_illegal_characters", format!("00-.{}-{SPAN}-01", &TRACE[1..]), false),
        ("trace_id_upper_case", format!("00-{}A-{SPAN}-01", &TRACE[1..]), false),
        ("trace_id_too_long", format!("00-{TRACE}3-{SPAN}-01"), false),
        ("trace_id_too_short", format!("00-{}-{SPAN}-01", &TRACE[1..]), false),
        ("parent_id_all_zero", format!("00-{TRACE}-{}-01", "0".repeat(16)), false),
        ("parent_id_illegal_characters", format!("00-{TRACE}-.{}-01", &SPAN[1..]), false),
        ("parent_id_too_long", format!("00-{TRACE}-{SPAN}7-01"), false),
        ("parent_id_too_short", format!("00-{TRACE}-{}-01", &SPAN[1..]), false),
        ("trace_flags_illegal_characters", format!("00-{TRACE}-{SPAN}-.0"), false),
        ("trace_flags_illegal_characters", format!("00-{TRACE}-{SPAN}-0."), false),
        ("trace_flags_too_long", format!("00-{TRACE}-{SPAN}-001"), false),
        ("trace_flags_too_short", format!("00-{TRACE}-{SPAN}-1"), false),
        ("ows_handling", format!(" {valid}"), false),
        ("hyphens elsewhere", valid.replace('-', "_"), false),
        ("not ASCII", format!("00-{}é-{SPAN}-01", &TRACE[2..]), false),
        ("nothing", String::new(), false),
    ] {
        assert_eq!(Context::parse(&text).is_some(), believed, "{name}: {text}");
    }
}

#[test]
fn what_is_passed_on_is_of_the_version_that_we_know() {
    let context = Context::parse(&format!("cc-{TRACE}-{SPAN}-ff-more")).unwrap();
    assert!(context.is_sampled());
    assert_eq!(context.to_string(), format!("00-{TRACE}-{SPAN}-03"));
    assert_eq!(context.at([0xab; 8]).to_string(), format!("00-{TRACE}-abababababababab-03"));
    assert_eq!(context.trace_id(), TRACE);
    let begun = Context::begin(false);
    assert_eq!(Context::parse(&begun.to_string()), Some(begun));
    assert!(!begun.is_sampled() && Context::begin(true).is_sampled());
    assert_ne!(Context::begin(true).trace_id, begun.trace_id);
}

#[test]
fn states_are_passed_on_whole_or_not_at_all() {
    let long = |letter: char| format!("{letter}={}", "v".repeat(126));
    let five = ["a", "b", "c", "d", "e"].map(|key| long(key.chars().next().unwrap()));
    for (headers, passed) in [
        (vec!["foo=1"], Some("foo=1".to_owned())),
        (vec!["foo=1,bar=2", "rojo=1 , congo=2"], Some("foo=1,bar=2,rojo=1,congo=2".into())),
        (vec!["foo=1 \t , \t bar=2, \t baz=3"], Some("foo=1,bar=2,baz=3".into())),
        (vec!["foo=1,", ""], Some("foo=1".into())),
        (vec!["foo@vendor=1,1a-2f@foo=2,0/*_-=3"], Some("foo@vendor=1,1a-2f@foo=2,0/*_-=3".into())),
        (vec!["foo= a b"], Some("foo= a b".into())),
        (vec![""], None),
        (vec![], None),
        (vec!["foo=1,foo=1"], None),
        (vec!["foo=1", "foo=2"], None),
        (vec!["foo"], None),
        (vec!["foo="], None),
        (vec!["=1"], None),
        (vec!["foo=1=2"], None),
        (vec!["foo =1"], None),
        (vec!["FOO=1"], None),
        (vec!["foo.bar=1"], None),
        (vec!["foo@=1"], None),
        (vec!["@foo=1"], None),
        (vec!["foo@1a=1"], None),
        (vec!["foo@@bar=1"], None),
        (vec!["foo@bar@baz=1"], None),
        (vec!["foo=1\u{7f}"], None),
        (vec!["foo=é"], None),
        (vec![&five.join(",")], Some(five[..3].join(","))),
        (vec![&format!("x={},y=1,{}", "v".repeat(200), five[..3].join(","))], Some(format!("y=1,{}", five[..3].join(",")))),
    ] {
        assert_eq!(state(headers.iter().map(|header| header.as_bytes())), passed, "{headers:?}");
    }
    let members = |count: usize| (0..count).map(|i| format!("k{i}=1")).collect::<Vec<_>>().join(",");
    assert!(state([members(32).as_bytes()].into_iter()).is_some());
    assert_eq!(state([members(33).as_bytes()].into_iter()), None);
    assert_eq!(state([format!("{}=1", "k".repeat(257)).as_bytes()].into_iter()), None);
    assert_eq!(state([format!("{}@v=1", "t".repeat(242)).as_bytes()].into_iter()), None);
    assert_eq!(state([format!("t@{}=1", "v".repeat(15)).as_bytes()].into_iter()), None);
}
