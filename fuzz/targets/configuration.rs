#![no_main]

use gatehouse_chassis::{
    config::{Config as _, Reader, Shared, Source},
    keys::Register,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut reader = Reader::new(Source::of(text, &[]));
    let _shared = Shared::read(&mut reader);
    let _problems = reader.into_problems();
    if let Ok(register) = Register::parse(text) {
        assert_eq!(Register::parse(&register.to_json()), Ok(register));
    }
});
