fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["tokenvault/v1/token_vault.proto"], ["../../../proto"])?;
    Ok(tonic_prost_build::configure().compile_fds(files)?)
}
