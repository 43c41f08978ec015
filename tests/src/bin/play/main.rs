//! Programs on the parts of this library, chosen by name: `play demo`. They are one binary, so they link
//! once.

mod bench;
mod conformance;
mod corpus;
mod dashboard;
mod demo;
mod huge;
mod random_play;
mod random_tables;
mod seeds;
mod try_it;

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
        Some("conformance") => conformance::main(),
        Some("corpus") => {
            corpus::main();
            done()
        }
        Some("dashboard") => dashboard::main(),
        Some("demo") => demo::main(),
        Some("huge") => huge::main(),
        Some("storm") => random_play::storm(),
        Some("tables") => random_tables::main(),
        Some("try") => try_it::main(),
        other => {
            eprintln!(
                "play: {other:?} is not one of backfill, bench, breaker, conformance, corpus, dashboard, \
                 demo, huge, storm, tables, try"
            );
            ExitCode::from(2)
        }
    }
}
