//! How conversations are written, and who judges them: what `run` settles before it loads a model.

use super::{
    exit::{Exit, Failure},
    judge::{self, JudgeFlags},
    model_choice::ModelChoice,
    output::note,
    run_args::RunArgs,
};
use crate::{
    engine::{
        Template,
        chat::fastchat::{Chosen, Family},
    },
    prompt::requests::digest,
    run::{judge::expected_calls, plan::Plan},
};

/// Whether a task of the plan is judged.
pub(super) fn judged(plan: &Plan) -> bool {
    plan.tasks.iter().any(|t| t.task.file.judge.is_some())
}

/// The judge of a plan with judged tasks, told with the number of its calls; none where nothing is scored.
pub(super) fn chosen_judge(args: &RunArgs, choice: &ModelChoice, plan: &Plan) -> Result<Option<judge::Chosen>, Failure> {
    let Some(rule) = judge::rule(plan.tasks.iter().map(|t| &t.task)).filter(|_| !args.predict_only) else { return Ok(None) };
    let named = args.judge.judge_url.is_some() || args.judge.judge_model.is_some();
    let flags = JudgeFlags { judge_demo: args.judge.judge_demo || (*choice == ModelChoice::Demo && !named), ..args.judge.clone() };
    let chosen = judge::choose(&flags, rule, args.offline)?;
    let calls = plan.tasks.iter().filter(|t| t.task.file.judge.is_some()).map(|t| expected_calls(&t.asked)).sum();
    note(&judge::outlook(calls, &chosen));
    let chat = chat_template(args, choice)?;
    note(&format!("conversations are written in the template {}{}", chat.name, chat.caution));
    Ok(Some(chosen))
}

/// How conversations are written.
pub(super) struct ChatTemplate {
    pub(super) template: Template,
    /// As it stands in the signature.
    pub(super) name: String,
    /// What a reader should know of the choice.
    pub(super) caution: &'static str,
}

/// `--chat-template`, else what FastChat takes for the model's name.
pub(super) fn chat_template(args: &RunArgs, choice: &ModelChoice) -> Result<ChatTemplate, Failure> {
    let model = match choice {
        // The demo's name says nothing; its tokenizer is a Llama 3's.
        ModelChoice::Demo => "llama-3",
        ModelChoice::InProcess(model) => &model.model,
        ModelChoice::Endpoint(servers) => &servers.model,
    };
    let of_family = |family: Family, caution| {
        let template = match family {
            Family::Chatgpt => Template::Messages { system: family.system().to_owned() },
            _ => Template::FastChat(family),
        };
        ChatTemplate { template, name: family.name().into(), caution }
    };
    match args.chat_template.as_deref() {
        None => Ok(match Family::of_model(model) {
            Chosen::ByName(family) => of_family(family, ""),
            Chosen::Fallback => of_family(
                Family::OneShot,
                ", FastChat's fallback for a name it does not know: if the model is of one of its families, name it with --chat-template",
            ),
        }),
        Some("model") => Ok(ChatTemplate { template: Template::Model, name: "model".into(), caution: ", the model's own: off-protocol" }),
        Some(name) => match Family::by_name(name) {
            Some(family) => Ok(of_family(family, "")),
            None => {
                let unknown = |e: std::io::Error| {
                    let names: Vec<&str> = Family::ALL.iter().map(|f| f.name()).collect();
                    Failure::new(Exit::Usage, format!("--chat-template {name}: no family of that name, and no file that can be read ({e})"))
                        .hint(format!("one of: model, {}, or the path of a Jinja file", names.join(", ")))
                };
                let source = std::fs::read_to_string(name).map_err(unknown)?;
                let name = format!("file:{}", digest([source.as_str()]).get(..8).unwrap_or_default());
                Ok(ChatTemplate { template: Template::Jinja(source), name, caution: ", a file's: off-protocol" })
            }
        },
    }
}
