//! Programs on the parts of this library, chosen by name: `play demo`. They are one binary, so they link
//! once.

mod backfill;
mod bench;
mod breaker;
mod corpus;
mod demo;
mod huge;
mod seeds;
mod storm;

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = || ExitCode::SUCCESS;
    match std::env::args().nth(1).as_deref() {
        Some("backfill") => backfill::main(),
        Some("bench") => {
            bench::main();
            done()
        }
        Some("breaker") => breaker::main(),
        Some("corpus") => {
            corpus::main();
            done()
        }
        Some("demo") => demo::main(),
        Some("huge") => huge::main(),
        Some("storm") => storm::main(),
        other => {
            eprintln!("play: {other:?} is not one of backfill, bench, breaker, corpus, demo, huge, storm");
            ExitCode::from(2)
        }
    }
}
