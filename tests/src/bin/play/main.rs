//! What is played on the library of real parts, by name: `play demo`. One program, so that its parts are linked once.

mod bench;
mod corpus;
mod demo;
mod huge;
mod random_play;
mod seeds;

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = || ExitCode::SUCCESS;
    match std::env::args().nth(1).as_deref() {
        Some("backfill") => random_play::backfill(),
        Some("bench") => {
            bench::main();
            done()
        }
        Some("breaker") => random_play::breaker(),
        Some("corpus") => {
            corpus::main();
            done()
        }
        Some("demo") => demo::main(),
        Some("huge") => huge::main(),
        Some("storm") => random_play::storm(),
        other => {
            eprintln!("play: {other:?} is none of backfill, bench, breaker, corpus, demo, huge, storm");
            ExitCode::from(2)
        }
    }
}
