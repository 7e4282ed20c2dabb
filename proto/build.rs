//! Compiles the .proto files in pure Rust (protox), so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use tonic_build::manual;

const FILES: [&str; 9] = [
    "gateway.proto",
    "downstream.proto",
    "internal/process.proto",
    "internal/push.proto",
    "internal/audit.proto",
    "internal/admin.proto",
    "internal/edge.proto",
    "internal/supervisor.proto",
    "internal/keys.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["proto"])?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    // Server reflection on the public listener describes the public contract alone.
    let public = protox::compile(["gateway.proto"], ["proto"])?;
    fs::write(out.join("gateway.bin"), public.encode_to_vec())?;

    tonic_prost_build::configure()
        .bytes(".gateway.v1")
        .bytes(".gateway.downstream.v1")
        .build_transport(false)
        // An older process answers UNIMPLEMENTED to what a newer one asks; a service that leaves a method out does the same.
        .generate_default_stubs(true)
        // It holds a private key.
        .skip_debug([".gateway.internal.v1.AddKey"])
        // A line of the exit ledger is this message as JSON; what an older or a newer supervisor wrote is read with defaults.
        .type_attribute("gateway.internal.v1.ExitRecord", "#[derive(serde::Serialize, serde::Deserialize)]")
        .type_attribute("gateway.internal.v1.ExitRecord", "#[serde(default)]")
        // In the supervisor's state file, likewise.
        .type_attribute("gateway.internal.v1.ChangeStatus", "#[derive(serde::Serialize, serde::Deserialize)]")
        .type_attribute("gateway.internal.v1.ChangeStatus", "#[serde(default)]")
        .field_attribute("gateway.internal.v1.ChangeStatus.change_id", "#[serde(rename = \"id\", alias = \"change_id\")]")
        .type_attribute("gateway.internal.v1.Step", "#[derive(serde::Serialize, serde::Deserialize)]")
        .type_attribute("gateway.internal.v1.Step", "#[serde(default)]")
        .compile_fds(descriptors)?;

    // Event streams once more with encoded bytes in place of messages: an event is encoded once for all streams.
    let server = "crate::raw::EncodedServerCodec";
    let gateway = manual::Service::builder().name("Gateway").package("gateway.v1");
    let gateway = gateway.method(
        manual::Method::builder()
            .name("execute_command")
            .route_name("ExecuteCommand")
            .input_type("crate::gateway::v1::ExecuteCommandRequest")
            .output_type("crate::gateway::v1::ExecuteCommandResponse")
            .codec_path("tonic_prost::ProstCodec")
            .build(),
    );
    let gateway =
        gateway.method(event_stream("subscribe_events", "SubscribeEvents", "crate::gateway::v1::SubscribeEventsRequest", server).build());
    let [servers, clients] = ["encoded-servers", "encoded-clients"].map(|dir| out.join(dir));
    fs::create_dir_all(&servers)?;
    fs::create_dir_all(&clients)?;
    let builder = manual::Builder::new().build_transport(false);
    builder.build_client(false).out_dir(servers).compile(&[gateway.build(), push(server)]);
    let builder = manual::Builder::new().build_transport(false);
    builder.build_server(false).out_dir(clients).compile(&[push("crate::raw::EncodedClientCodec")]);
    Ok(())
}

fn push(codec: &str) -> manual::Service {
    manual::Service::builder()
        .name("Push")
        .package("gateway.internal.v1")
        .method(event_stream("attach", "Attach", "crate::internal::v1::AttachRequest", codec).build())
        .build()
}

fn event_stream(name: &str, route: &str, input: &str, codec: &str) -> manual::MethodBuilder {
    manual::Method::builder()
        .name(name)
        .route_name(route)
        .input_type(input)
        .output_type("bytes::Bytes")
        .codec_path(codec)
        .server_streaming()
}
