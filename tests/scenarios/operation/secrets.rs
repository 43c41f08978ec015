//! The role and its password are read from Secrets Manager: through SSM, or directly if RDS named the secret.

use scenarios::aws::fault_proxy::{Fault, FaultProxy};
use scenarios::aws::ssm::Ssm;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::json;

use crate::support::expected_errors::{assert_not_logged, assert_tick_fails};

crate::scenarios![
    a_secret_is_read_by_name_and_by_arn,
    an_arn_of_another_secret_is_refused,
    a_secret_that_is_missing_or_invalid_is_named_and_not_quoted,
    a_secret_that_cannot_be_read_now_is_read_by_a_later_tick,
    a_secret_without_a_user_needs_the_variable,
];

/// Fixture without a password, and a proxy for secret requests.
///
/// The proxy is for SSM and Secrets Manager. SSM returns secrets, too. So both are those of moto.
async fn fixture() -> (Fixture, FaultProxy) {
    let mut fixture = Fixture::new(Plugin::Pgoutput).await;
    let proxy = FaultProxy::open(Ssm::shared().await.endpoint()).await;
    fixture.function.unset("PGPASSWORD").await;
    fixture.function.unset("PGUSER").await;
    fixture.function.set("DB_AUTH", "secret").await;
    let endpoint = proxy.endpoint().to_owned();
    for service in ["SSM", "SECRETS_MANAGER"] {
        let variable = format!("AWS_ENDPOINT_URL_{service}");
        fixture.function.set(&variable, &endpoint).await;
    }
    (fixture, proxy)
}

async fn a_secret_is_read_by_name_and_by_arn() {
    let (mut fixture, proxy) = fixture().await;
    let secret = json!({"username": REPLUSER.0, "password": REPLUSER.1}).to_string();
    let plain = format!("app/{}", fixture.slot);
    // SSM accepts none of these characters in a name.
    let managed = format!("rds!cluster-{}", fixture.slot);
    let tagged = format!("app/db@prod+{}=1", fixture.slot);
    let mut direct = 0;
    for name in [plain, managed, tagged] {
        let arn = Ssm::shared().await.create_secret(&name, &secret).await;
        for id in [&name, &arn] {
            fixture.function.set("DB_SECRET", id).await;
            fixture.tick().await;
            direct += u64::from(id.contains(['!', '@']));
            assert_eq!(proxy.requests("GetSecretValue"), direct, "{id}");
        }
    }
    assert_not_logged(&fixture, REPLUSER.1).await;
}

/// SSM returns a secret by its name only. An ARN may be one of another account, region or secret.
async fn an_arn_of_another_secret_is_refused() {
    let (mut fixture, _proxy) = fixture().await;
    let secret = json!({"username": REPLUSER.0, "password": REPLUSER.1}).to_string();
    let name = format!("app/{}", fixture.slot);
    let arn = Ssm::shared().await.create_secret(&name, &secret).await;
    let (account, _) = arn.rsplit_once(":secret:").unwrap();
    let (region, _) = account.rsplit_once(':').unwrap();
    for other in [
        arn.replacen(region, "arn:aws:secretsmanager:ap-south-2", 1),
        arn.replacen(account, &format!("{region}:999999999999"), 1),
        // Its last six letters look like those that Secrets Manager adds.
        format!("{account}:secret:{name}-master"),
    ] {
        fixture.function.set("DB_SECRET", &other).await;
        assert_tick_fails(&fixture, "PostgresAuthentication", &[&arn, "whole ARN"]).await;
    }
    let (whole_name, _) = arn.rsplit_once('-').unwrap();
    fixture.function.set("DB_SECRET", whole_name).await;
    fixture.tick().await;
    assert_not_logged(&fixture, REPLUSER.1).await;
}

async fn a_secret_that_is_missing_or_invalid_is_named_and_not_quoted() {
    let (mut fixture, _proxy) = fixture().await;
    for (at, form) in ["app/", "rds!cluster-"].into_iter().enumerate() {
        let name = format!("{form}{}-{at}", fixture.slot);
        fixture.function.set("DB_SECRET", &name).await;
        assert_tick_fails(&fixture, "PostgresAuthentication", &[&name, "DB_SECRET"]).await;
        // A password without its object, as a person writes it.
        let secret = json!(REPLUSER.1).to_string();
        Ssm::shared().await.create_secret(&name, &secret).await;
        assert_tick_fails(&fixture, "PostgresAuthentication", &[&name, "\"password\""]).await;
    }
}

async fn a_secret_that_cannot_be_read_now_is_read_by_a_later_tick() {
    let (mut fixture, proxy) = fixture().await;
    let secret = json!({"username": REPLUSER.0, "password": REPLUSER.1}).to_string();
    let name = format!("rds!cluster-{}", fixture.slot);
    Ssm::shared().await.create_secret(&name, &secret).await;
    fixture.function.set("DB_SECRET", &name).await;
    proxy.inject("GetSecretValue", Fault::internal());
    assert_tick_fails(&fixture, "SecretUnavailable", &[&name, "DB_SECRET"]).await;
    proxy.clear();
    fixture.tick().await;
}

async fn a_secret_without_a_user_needs_the_variable() {
    let (mut fixture, _proxy) = fixture().await;
    let name = format!("app/{}", fixture.slot);
    let secret = json!({"password": REPLUSER.1}).to_string();
    Ssm::shared().await.create_secret(&name, &secret).await;
    fixture.function.set("DB_SECRET", &name).await;
    assert_tick_fails(&fixture, "PostgresAuthentication", &[&name, "username", "PGUSER"]).await;
    fixture.function.set("PGUSER", REPLUSER.0).await;
    fixture.tick().await;
}
