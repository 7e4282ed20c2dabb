//! What signing and verifying cost: µs of CPU time for each, by both implementations, in interleaved rounds.
//!
//! `cargo run --profile dist -p gatehouse-proto --example signing`
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a measurement")]

use std::{fs, hint::black_box};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use ed25519_dalek::{Signer as _, SigningKey};
use gatehouse_proto::keys::Signer;

const OPERATIONS: u32 = 20_000;
const ROUNDS: usize = 3;

type Operation<'a> = (&'a str, Box<dyn Fn() + 'a>);

/// CPU time of this thread in nanoseconds, as the scheduler counts it.
fn cpu() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

fn main() {
    let seed = [7; 32];
    // About as long as the signing input of a response.
    let message = [0x5a; 220];
    let dalek = SigningKey::from_bytes(&seed);
    let aws = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let ours = Signer::from_seed(&seed);
    let public = ours.public_key();
    let aws_public = UnparsedPublicKey::new(&ED25519, public.as_bytes());
    let signature = ours.sign(&message);
    let operations: [Operation<'_>; 5] = [
        ("sign, ed25519-dalek", Box::new(|| _ = black_box(dalek.sign(black_box(&message))))),
        ("sign, aws-lc-rs", Box::new(|| _ = black_box(aws.sign(black_box(&message))))),
        ("sign, Signer", Box::new(|| _ = black_box(ours.sign(black_box(&message))))),
        ("verify strictly, ed25519-dalek", Box::new(|| assert!(public.verifies(black_box(&message), &signature)))),
        ("verify, aws-lc-rs (not strict)", Box::new(|| aws_public.verify(black_box(&message), &signature).unwrap())),
    ];
    for round in 0..=ROUNDS {
        for (name, operation) in &operations {
            let before = cpu();
            for _ in 0..OPERATIONS {
                operation();
            }
            let micros = (cpu() - before) as f64 / f64::from(OPERATIONS) / 1000.0;
            // The first round warms up.
            if round > 0 {
                println!("round {round}  {name:31} {micros:6.2} µs");
            }
        }
    }
}
