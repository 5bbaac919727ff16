use std::{env, error::Error, fs, time::Duration};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use v1::{Context, ConversationContext, StartDelegationRequest, context::Kind};

mod v1 {
    tonic::include_proto!("tokenvault.v1");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = |variable| fs::read(env::var(variable).expect(variable));
    let mtls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(file("TOKENVAULT_CA")?))
        .identity(Identity::from_pem(file("TOKENVAULT_CERT")?, file("TOKENVAULT_KEY")?));
    let address = format!("https://{}", env::var("TOKENVAULT_ADDRESS")?);
    let sidecar = Channel::from_shared(address)?.tls_config(mtls)?.timeout(Duration::from_secs(10));
    let mut vault = v1::token_vault_client::TokenVaultClient::new(sidecar.connect().await?);
    let [brand_id, conversation_id] = [1, 2].map(|n| env::args().nth(n).expect("BRAND CONVERSATION"));
    let kind = Some(Kind::Conversation(ConversationContext { conversation_id }));
    let request = StartDelegationRequest { brand_id, context: Some(Context { kind }), ..Default::default() };
    println!("{}", vault.start_delegation(request).await?.into_inner().authorization_url);
    Ok(())
}
