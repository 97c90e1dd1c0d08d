//! The tensors of a checkpoint by what they are for: names and shapes of Hugging Face's Llama and Qwen2, the same for every backend. Where
//! several devices hold the model together, the part of each that [`Weights::share`] names.

use super::config::{Bias, Config};
use super::device::failed;
use super::weights::Weights;
use crate::engine::EngineError;
use candle_core::Tensor;

/// What stands before and behind the layers.
pub(super) struct Ends {
    /// `[vocabulary][hidden]`, of a share its tokens.
    pub(super) embedding: Tensor,
    /// `[vocabulary][hidden]`, of a share its tokens; `None` where the head is the embedding too.
    pub(super) head: Option<Tensor>,
    /// `[hidden]`.
    pub(super) final_norm: Tensor,
}

impl Ends {
    /// Takes them out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub(super) fn load(config: &Config, weights: &Weights<'_>) -> Result<Self, EngineError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = weights.rows("model.embed_tokens.weight", &[vocab, hidden])?;
        // A checkpoint may carry a head although its config ties it; transformers ties by the config then.
        let head = if config.tied { None } else { Some(weights.rows("lm_head.weight", &[vocab, hidden])?) };
        Ok(Ends { embedding, head, final_norm: weights.get("model.norm.weight", &[hidden])? })
    }
}

/// One layer. Matrices are `[out][in]`; a share has its heads, its part of the feed-forward layer, and of the products back into the stream
/// what goes in: their outputs are to be summed over all shares.
pub(super) struct LayerTensors {
    pub(super) input_norm: Tensor,
    /// Query, key and value, one after the other.
    pub(super) qkv: Tensor,
    pub(super) qkv_bias: Option<Tensor>,
    pub(super) output: Tensor,
    pub(super) output_bias: Option<Tensor>,
    pub(super) post_norm: Tensor,
    /// Gate and up, one after the other.
    pub(super) gate_up: Tensor,
    pub(super) down: Tensor,
}

impl LayerTensors {
    /// Takes the tensors of a layer out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub(super) fn load(index: usize, config: &Config, weights: &Weights<'_>) -> Result<Self, EngineError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let full = |name: &str| format!("model.layers.{index}.{name}");
        let rows = |name: &str, shape: &[usize]| weights.rows(&full(name), shape);
        let stack = |parts: &[Tensor]| Tensor::cat(parts, 0).map_err(failed(format!("layer {index}")));
        let qkv = ["q", "k", "v"].into_iter().zip([q, kv, kv]);
        let qkv_weights: Vec<Tensor> =
            qkv.clone().map(|(n, w)| rows(&format!("self_attn.{n}_proj.weight"), &[w, hidden])).collect::<Result<_, _>>()?;
        let qkv_bias = match config.bias {
            Bias::None => None,
            Bias::Qkv | Bias::All => {
                let parts: Vec<Tensor> = qkv.map(|(n, w)| rows(&format!("self_attn.{n}_proj.bias"), &[w])).collect::<Result<_, _>>()?;
                Some(stack(&parts)?)
            }
        };
        // Added once, however many parts of the product are summed.
        let has_bias = config.bias == Bias::All && weights.share().is_first();
        let output_bias = if has_bias { Some(weights.get(&full("self_attn.o_proj.bias"), &[hidden])?) } else { None };
        let gate_up = stack(&[rows("mlp.gate_proj.weight", &[inner, hidden])?, rows("mlp.up_proj.weight", &[inner, hidden])?])?;
        Ok(LayerTensors {
            input_norm: weights.get(&full("input_layernorm.weight"), &[hidden])?,
            qkv: stack(&qkv_weights)?,
            qkv_bias,
            output: weights.columns(&full("self_attn.o_proj.weight"), &[hidden, q])?,
            output_bias,
            post_norm: weights.get(&full("post_attention_layernorm.weight"), &[hidden])?,
            gate_up,
            down: weights.columns(&full("mlp.down_proj.weight"), &[hidden, inner])?,
        })
    }
}
