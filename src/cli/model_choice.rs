//! Which engine answers, from `--model`, `--base-url`, `--demo` and lm-eval's `--model_args`.
//!
//! `--model` is a hub id, a directory or a server-side name. Only beside `--model_args` is it an engine name, as in lm-eval 0.4.13
//! (`hf`, `local-completions`, ...). Nothing is opened here.

use super::{
    devices::DeviceArgs,
    exit::{Exit, Failure},
    layers::nearest,
    run_args::RunArgs,
    values::{Dtype, key_values},
};
use crate::engine::llama::{LogitType, TensorOps};
use crate::results::command_line::redact;
use clap::ValueEnum;
use std::{collections::BTreeMap, num::NonZeroUsize, str::FromStr, time::Duration};

/// Who is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelChoice {
    /// The built-in demo model on bundled samples.
    Demo,
    /// The in-process engine.
    InProcess(InProcess),
    /// OpenAI-compatible servers.
    Endpoint(EndpointChoice),
}

impl ModelChoice {
    /// The model's name, as `run.json` has it.
    pub(super) fn model(&self) -> &str {
        match self {
            ModelChoice::Demo => "demo",
            ModelChoice::InProcess(model) => &model.model,
            ModelChoice::Endpoint(servers) => &servers.model,
        }
    }
}

/// What the in-process engine loads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InProcess {
    /// Hub id or directory.
    pub model: String,
    /// Hub revision.
    pub revision: Option<String>,
    /// Tokenizer of its own: hub id or directory.
    pub tokenizer: Option<String>,
    /// `f32`, `bf16`, `f16`; where `None`, f32 on the CPU and the model's own on a GPU.
    pub dtype: Option<String>,
    /// On which devices.
    pub devices: DeviceArgs,
    /// Whether logits are rounded with the weights.
    pub logits: LogitType,
    /// By which operations a device computes.
    pub tensor_ops: TensorOps,
}

/// Where the servers are, and how hard they are asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointChoice {
    /// Up to `/v1`, without a trailing slash. May hold user-info: never print one as it is.
    pub base_urls: Vec<String>,
    /// The model's name there.
    pub model: String,
    /// Hub id or directory of its tokenizer.
    pub tokenizer: Option<String>,
    /// Hub revision of that tokenizer.
    pub revision: Option<String>,
    /// Requests in flight; the engine's own default where `None`.
    pub max_connections: Option<NonZeroUsize>,
    /// Tries after the first; the engine's own default where `None`.
    pub max_retries: Option<u32>,
    /// Limit for one answer; the engine's own default where `None`.
    pub timeout: Option<Duration>,
}

/// lm-eval model arguments that this program has a place for.
const KNOWN: [&str; 13] = [
    "pretrained",
    "model",
    "base_url",
    "tokenizer",
    "revision",
    "dtype",
    "device",
    "tensor_parallel_size",
    "data_parallel_size",
    "num_concurrent",
    "max_retries",
    "timeout",
    "verify_certificate",
];

/// lm-eval model arguments that are accepted and change nothing: the protocol or the engine decides, or a server has its own setting.
const WITHOUT_EFFECT: [&str; 16] = [
    "tokenizer_backend",
    "tokenized_requests",
    "max_length",
    "max_gen_toks",
    "max_model_len",
    "batch_size",
    "seed",
    "eos_string",
    "add_bos_token",
    "custom_prefix_token_id",
    "gpu_memory_utilization",
    "think_end_token",
    "enable_thinking",
    "parallelize",
    "attn_implementation",
    "trust_remote_code",
];

/// Reads the choice off the flags. Flags are stronger than the same setting in `--model_args`.
pub(super) fn of(args: &RunArgs) -> Result<ModelChoice, Failure> {
    if args.demo {
        return Ok(ModelChoice::Demo);
    }
    if args.model_args.is_empty() {
        let Some(model) = &args.model else { return Err(no_model(args)) };
        return choice(args, model.clone(), args.base_url.clone(), &BTreeMap::new());
    }
    let pairs = key_values(&args.model_args.join(",")).map_err(|why| usage(format!("--model-args: {why}")))?;
    check_keys(&pairs)?;
    lm_eval(args, &pairs)
}

/// Notes about model arguments that change nothing.
pub(super) fn notes(args: &RunArgs) -> Vec<String> {
    let pairs = key_values(&args.model_args.join(",")).unwrap_or_default();
    // A server has its own devices.
    let served: &[&str] = if args.base_url.is_empty() && !pairs.contains_key("base_url") {
        &[]
    } else {
        &["device", "tensor_parallel_size", "data_parallel_size"]
    };
    let idle = WITHOUT_EFFECT.iter().chain(served).filter(|key| pairs.contains_key(**key));
    idle.map(|key| format!("{key} in --model-args is accepted for compatibility and has no effect")).collect()
}

/// `--model` is an engine's name here.
fn lm_eval(args: &RunArgs, pairs: &BTreeMap<String, String>) -> Result<ModelChoice, Failure> {
    let engine = args.model.as_deref().unwrap_or("");
    let name = pairs.get("pretrained").or_else(|| pairs.get("model")).cloned();
    let named = || name.clone().ok_or_else(|| usage(format!("--model {engine}: --model-args has neither pretrained= nor model=")));
    let mut urls = args.base_url.clone();
    if urls.is_empty() {
        urls.extend(pairs.get("base_url").cloned());
    }
    match engine {
        "dummy" | "mock" => Ok(ModelChoice::Demo),
        "hf" | "hf-auto" | "huggingface" | "vllm" | "sglang" => {
            if !urls.is_empty() {
                return Err(usage(format!("--model {engine} runs in this process, but a base URL is given too"))
                    .hint("use --model local-completions for a server"));
            }
            choice(args, named()?, Vec::new(), pairs)
        }
        "local-completions" | "openai-completions" => {
            if urls.is_empty() && engine == "openai-completions" {
                urls.push("https://api.openai.com/v1".to_owned());
            }
            if urls.is_empty() {
                return Err(usage("--model local-completions needs a server")
                    .hint("add base_url=http://localhost:8000/v1 to --model-args, or --base-url"));
            }
            choice(args, named()?, urls, pairs)
        }
        "local-chat-completions" | "openai-chat-completions" => {
            Err(usage(format!("--model {engine}: chat requests are not built, and every task of this version uses plain completion"))
                .hint("use --model local-completions with the same --model-args"))
        }
        "" => {
            // Without an engine name the arguments say enough: a URL means a server.
            choice(args, named()?, urls, pairs)
        }
        other => Err(usage(format!("--model {other:?} beside --model-args is read as lm-eval's engine name, and there is no such engine"))
            .hint("engines: hf, local-completions, openai-completions; or leave --model-args out and give --model a hub id or directory")),
    }
}

/// `--logits-f32`.
pub fn logits(logits_f32: bool) -> LogitType {
    if logits_f32 { LogitType::F32 } else { LogitType::AsWeights }
}

fn choice(args: &RunArgs, model: String, urls: Vec<String>, pairs: &BTreeMap<String, String>) -> Result<ModelChoice, Failure> {
    let of_pairs = |key: &str| pairs.get(key).cloned();
    let tokenizer = args.tokenizer.clone().or_else(|| of_pairs("tokenizer"));
    let revision = args.revision.clone().or_else(|| of_pairs("revision"));
    if urls.is_empty() {
        let dtype = match args.dtype {
            Some(dtype) => dtype,
            None => dtype_of(pairs)?,
        };
        let devices = args.devices.clone().or(devices_of(pairs)?);
        let (dtype, logits) = (dtype.name().map(str::to_owned), logits(args.logits_f32));
        let tensor_ops = args.tensor_ops.into();
        return Ok(ModelChoice::InProcess(InProcess { model, revision, tokenizer, dtype, devices, logits, tensor_ops }));
    }
    Ok(ModelChoice::Endpoint(EndpointChoice {
        base_urls: urls.iter().map(|url| base_url(url)).collect::<Result<_, _>>()?,
        model,
        tokenizer,
        revision,
        max_connections: args.max_connections.map_or_else(|| number(pairs, "num_concurrent"), |n| Ok(Some(n)))?,
        max_retries: args.max_retries.map_or_else(|| number(pairs, "max_retries"), |n| Ok(Some(n)))?,
        timeout: args.timeout.map_or_else(|| Ok(number(pairs, "timeout")?.map(Duration::from_secs)), |t| Ok::<_, Failure>(Some(t)))?,
    }))
}

fn check_keys(pairs: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (key, value) in pairs {
        match key.as_str() {
            "api_key" | "token" => return Err(super::layers::key_on_command_line(&format!("{key} in --model-args"))),
            "verify_certificate" if value.eq_ignore_ascii_case("false") => {
                return Err(usage("verify_certificate=False in --model-args is not supported: a server's certificate is always checked")
                    .hint("name your own authority's certificate in SSL_CERT_FILE"));
            }
            "ca_cert_path" => return Err(usage("ca_cert_path in --model-args is not supported").hint("name the file in SSL_CERT_FILE")),
            "header" => return Err(usage("header in --model-args is not built: only the key from OPENAI_API_KEY is sent")),
            known if KNOWN.contains(&known) || WITHOUT_EFFECT.contains(&known) => {}
            unknown => {
                let failure = usage(format!("--model-args has no argument {unknown:?}"));
                return Err(match nearest(unknown, KNOWN.into_iter().chain(WITHOUT_EFFECT)) {
                    Some(near) => failure.hint(format!("did you mean {near}?")),
                    None => failure,
                });
            }
        }
    }
    Ok(())
}

/// A server's address up to `/v1`: lm-eval users give the full path of the completion route.
fn base_url(text: &str) -> Result<String, Failure> {
    let trimmed = text.trim().trim_end_matches('/');
    let trimmed = ["/chat/completions", "/completions"].into_iter().find_map(|route| trimmed.strip_suffix(route)).unwrap_or(trimmed);
    if trimmed.starts_with("http://") || trimmed.starts_with("https://") {
        return Ok(trimmed.to_owned());
    }
    let shown = redact(text);
    Err(usage(format!("base URL {shown:?} does not begin with http:// or https://")).hint("such as --base-url http://localhost:8000/v1"))
}

fn number<T: FromStr>(pairs: &BTreeMap<String, String>, key: &str) -> Result<Option<T>, Failure> {
    let parse = |value: &String| value.parse().map_err(|_| usage(format!("{key}={value} in --model-args is not a number in range")));
    pairs.get(key).map(parse).transpose()
}

fn devices_of(pairs: &BTreeMap<String, String>) -> Result<DeviceArgs, Failure> {
    Ok(DeviceArgs {
        device: pairs.get("device").cloned(),
        tensor_parallel_size: number(pairs, "tensor_parallel_size")?,
        data_parallel_size: number(pairs, "data_parallel_size")?,
    })
}

fn dtype_of(pairs: &BTreeMap<String, String>) -> Result<Dtype, Failure> {
    let Some(text) = pairs.get("dtype") else { return Ok(Dtype::Auto) };
    Dtype::from_str(text, true).map_err(|_| usage(format!("dtype={text} in --model-args is none of auto, float32, bfloat16, float16")))
}

fn no_model(args: &RunArgs) -> Failure {
    if !args.base_url.is_empty() {
        return usage("--base-url is given, but not the model's name there")
            .hint("add --model NAME; `curl URL/models` lists the names a server has");
    }
    usage("no model is named").hint(
        "--model ORG/NAME or --model DIRECTORY runs a model in this process, --base-url URL --model NAME asks a server; \
         --demo shows the program at work on bundled samples",
    )
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn choose(line: &str) -> Result<ModelChoice, Failure> {
        match Cli::try_parse_from(["swallow-eval", "run"].into_iter().chain(line.split(' '))).expect(line).command {
            Command::Run(args) => args.model_choice(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn in_process() {
        for (line, model, dtype) in [
            ("--model org/m", "org/m", None),
            ("--model dir --dtype bf16", "dir", Some("bf16")),
            ("--model hf --model-args pretrained=org/m,dtype=bfloat16", "org/m", Some("bf16")),
            ("--model hf -a pretrained=org/m dtype=auto", "org/m", None),
            ("--model hf --dtype f32 -a pretrained=org/m,dtype=bfloat16", "org/m", Some("f32")),
            ("-a {\"pretrained\":\"org/m\",\"dtype\":\"float16\"}", "org/m", Some("f16")),
        ] {
            let expected = InProcess { model: model.to_owned(), dtype: dtype.map(str::to_owned), ..InProcess::default() };
            assert_eq!(choose(line).unwrap(), ModelChoice::InProcess(expected), "{line}");
        }
    }

    #[test]
    fn devices_are_those_of_the_flags_then_of_the_arguments() {
        for (line, device, tensor, data) in [
            ("--model m", None, 0, 0),
            ("--model m --device cuda:0,cuda:1 --tensor-parallel-size 2", Some("cuda:0,cuda:1"), 2, 0),
            ("--model vllm -a pretrained=m,tensor_parallel_size=4,data_parallel_size=2", None, 4, 2),
            ("--model hf --tensor-parallel-size 2 -a pretrained=m,tensor_parallel_size=4,device=cuda", Some("cuda"), 2, 0),
        ] {
            let ModelChoice::InProcess(InProcess { devices, .. }) = choose(line).unwrap() else { panic!("{line}") };
            let expected = DeviceArgs {
                device: device.map(str::to_owned),
                tensor_parallel_size: NonZeroUsize::new(tensor),
                data_parallel_size: NonZeroUsize::new(data),
            };
            assert_eq!(devices, expected, "{line}");
        }
        let failure = choose("--model vllm -a pretrained=m,tensor_parallel_size=0").unwrap_err();
        assert!(failure.message.contains("tensor_parallel_size=0"), "{}", failure.message);
    }

    #[test]
    fn endpoints() {
        let at = |urls: &[&str], n| {
            ModelChoice::Endpoint(EndpointChoice {
                base_urls: urls.iter().map(|u| (*u).to_owned()).collect(),
                model: "m".to_owned(),
                max_connections: NonZeroUsize::new(n),
                ..EndpointChoice::default()
            })
        };
        for (line, expected) in [
            ("--model m --base-url http://a:1/v1/,http://b:2/v1", at(&["http://a:1/v1", "http://b:2/v1"], 0)),
            ("--model m --base-url http://a/v1 --num-concurrent 9", at(&["http://a/v1"], 9)),
            ("--model local-completions -a model=m,base_url=http://a:1/v1/completions,num_concurrent=4", at(&["http://a:1/v1"], 4)),
            ("--model openai-completions -a model=m", at(&["https://api.openai.com/v1"], 0)),
        ] {
            assert_eq!(choose(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn refusals_name_the_flag_and_keep_secrets() {
        for (line, part) in [
            ("--suite ja", "no model is named"),
            ("--base-url http://a/v1", "not the model's name"),
            ("--model m --base-url a:1/v1", "does not begin with http"),
            ("--model m --base-url ftp://user:sk-secret@a/v1", "does not begin with http"),
            ("--model local-chat-completions -a model=m", "chat requests are not built"),
            ("--model local-completions -a model=m", "needs a server"),
            ("--model hf -a dtype=auto", "neither pretrained= nor model="),
            ("--model hf -a pretrained=m,base_url=http://a/v1", "runs in this process"),
            ("--model org/m -a dtype=auto", "no such engine"),
            ("--model hf -a pretrained=m,dytpe=auto", "no argument \"dytpe\""),
            ("--model hf -a pretrained=m,dtype=int8", "dtype=int8"),
            ("--model local-completions -a model=m,base_url=http://a/v1,api_key=sk-secret", "api_key"),
            ("--model local-completions -a model=m,base_url=http://a/v1,timeout=soon", "timeout=soon"),
        ] {
            let failure = choose(line).expect_err(line);
            assert!(failure.message.contains(part), "{line}: {}", failure.message);
            assert_eq!(failure.exit, Exit::Usage, "{line}");
            assert!(!format!("{failure:?}").contains("sk-secret"), "{line}");
        }
    }
}
