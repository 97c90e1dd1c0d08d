//! The tensors of a checkpoint by what they are for: names and shapes of Hugging Face's Llama and Qwen2, the same for every backend. Where
//! several devices hold the model together, the part of each that [`Weights::share`] names.

use super::config::{Bias, Config};
use super::device::failed;
use super::weights::Weights;
use crate::engine::EngineError;
use candle_core::{DType, Result, Tensor};

/// A matrix `[out][in]`, as a backend keeps it.
pub(super) trait Matrix: Sized {
    /// This share's rows of matrices, by their names and outputs, one below the other.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    fn rows(weights: &Weights<'_>, parts: &[(String, usize)], inner: usize) -> std::result::Result<Self, EngineError>;

    /// This share's columns of a matrix.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    fn columns(weights: &Weights<'_>, name: &str, shape: [usize; 2]) -> std::result::Result<Self, EngineError>;
}

impl Matrix for Tensor {
    fn rows(weights: &Weights<'_>, parts: &[(String, usize)], inner: usize) -> std::result::Result<Self, EngineError> {
        let loaded = parts.iter().map(|(name, out)| weights.rows(name, &[*out, inner]));
        stack(loaded.collect::<std::result::Result<_, _>>()?).map_err(failed(&parts[0].0))
    }

    fn columns(weights: &Weights<'_>, name: &str, shape: [usize; 2]) -> std::result::Result<Self, EngineError> {
        weights.columns(name, &shape)
    }
}

/// What stands before and behind the layers.
pub(super) struct Ends<M> {
    /// `[vocabulary][hidden]`, of a share its tokens.
    pub(super) embedding: M,
    /// `[vocabulary][hidden]`, of a share its tokens; `None` where the head is the embedding too.
    pub(super) head: Option<M>,
    /// `[hidden]`.
    pub(super) final_norm: Tensor,
}

impl<M: Matrix> Ends<M> {
    /// Takes them out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub(super) fn load(config: &Config, weights: &Weights<'_>) -> std::result::Result<Self, EngineError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let matrix = |name: &str| M::rows(weights, &[(name.to_owned(), vocab)], hidden);
        let embedding = matrix("model.embed_tokens.weight")?;
        // A checkpoint may carry a head although its config ties it; transformers ties by the config then.
        let head = if config.tied { None } else { Some(matrix("lm_head.weight")?) };
        Ok(Ends { embedding, head, final_norm: weights.get("model.norm.weight", &[hidden])? })
    }
}

/// One layer. Matrices are `[out][in]`; a share has its heads, its part of the feed-forward layer, and of the products back into the stream
/// what goes in: their outputs are to be summed over all shares.
pub(super) struct LayerTensors<M> {
    pub(super) input_norm: Tensor,
    /// Query, key and value, one after the other.
    pub(super) qkv: M,
    pub(super) qkv_bias: Option<Tensor>,
    pub(super) output: M,
    pub(super) output_bias: Option<Tensor>,
    pub(super) post_norm: Tensor,
    /// Gate and up, one after the other.
    pub(super) gate_up: M,
    pub(super) down: M,
}

impl<M: Matrix> LayerTensors<M> {
    /// Takes the tensors of a layer out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub(super) fn load(index: usize, config: &Config, weights: &Weights<'_>) -> std::result::Result<Self, EngineError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let full = |name: &str| format!("model.layers.{index}.{name}");
        let vector = |name: &str, width: usize| weights.get(&full(name), &[width]);
        let back = |name: &str, inner: usize| M::columns(weights, &full(name), [hidden, inner]);
        let matrix = |parts: &[(&str, usize)], inner: usize| {
            let parts: Vec<(String, usize)> = parts.iter().map(|(name, out)| (full(name), *out)).collect();
            M::rows(weights, &parts, inner)
        };
        let qkv_bias = match config.bias {
            Bias::None => None,
            Bias::Qkv | Bias::All => {
                let parts = [("self_attn.q_proj.bias", q), ("self_attn.k_proj.bias", kv), ("self_attn.v_proj.bias", kv)];
                let parts =
                    parts.into_iter().map(|(name, width)| weights.rows(&full(name), &[width])).collect::<std::result::Result<_, _>>()?;
                Some(stack(parts).map_err(failed(format!("layer {index}")))?)
            }
        };
        // Added once, however many parts of the product are summed.
        let has_bias = config.bias == Bias::All && weights.share().is_first();
        let qkv = [("self_attn.q_proj.weight", q), ("self_attn.k_proj.weight", kv), ("self_attn.v_proj.weight", kv)];
        Ok(LayerTensors {
            input_norm: vector("input_layernorm.weight", hidden)?,
            qkv: matrix(&qkv, hidden)?,
            qkv_bias,
            output: back("self_attn.o_proj.weight", q)?,
            output_bias: if has_bias { Some(vector("self_attn.o_proj.bias", hidden)?) } else { None },
            post_norm: vector("post_attention_layernorm.weight", hidden)?,
            gate_up: matrix(&[("mlp.gate_proj.weight", inner), ("mlp.up_proj.weight", inner)], hidden)?,
            down: back("mlp.down_proj.weight", inner)?,
        })
    }
}

/// One below the other; in f32 where a checkpoint has them in different types.
fn stack(mut parts: Vec<Tensor>) -> Result<Tensor> {
    if parts.windows(2).any(|pair| pair[0].dtype() != pair[1].dtype()) {
        parts = parts.iter().map(|part| part.to_dtype(DType::F32)).collect::<Result<_>>()?;
    }
    Tensor::cat(&parts, 0)
}
