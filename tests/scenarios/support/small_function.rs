//! The smallest function, whose memory is less than one large value.

use scenarios::fixture::{Fixture, FixtureBuilder};

/// Fixture of a function with 128 MB, with these tables.
pub(crate) async fn small_function(builder: FixtureBuilder, tables: &str) -> Fixture {
    let fixture = builder
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .build()
        .await;
    fixture.sql(tables).await;
    fixture
}

/// Asserts that the function never had more than its memory.
pub(crate) fn assert_memory(fixture: &Fixture) {
    let peak = fixture.function.peak_memory_bytes();
    println!("{}: peak of {} MiB", fixture.plugin.name(), peak >> 20);
    assert!((1..128 << 20).contains(&peak), "{} MiB were resident", peak >> 20);
}
