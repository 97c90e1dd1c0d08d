//! An independent opinion: the Llama of candle-transformers, which shares no line with ours, on random weights in several shapes.

use crate::support::random_model::Shape;
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama as Other, LlamaConfig};
use proptest::prelude::*;
use std::ops::ControlFlow;
use swallow_eval::engine::Sampling;
use swallow_eval::engine::llama::LoadOptions;
use swallow_eval::engine::llama::batch::{Listener, TokenOutput, TokenRequest};

/// Logits of the last of these tokens, by the other.
struct Oracle {
    model: Other,
    config: candle_transformers::models::llama::Config,
}

impl Oracle {
    fn new(shape: Shape, weights: &[(String, Tensor)]) -> Self {
        let config = serde_json::from_value::<LlamaConfig>(shape.config()).unwrap().into_config(false);
        let weights = VarBuilder::from_tensors(weights.iter().cloned().collect(), DType::F32, &Device::Cpu);
        Oracle { model: Other::load(weights, &config).unwrap(), config }
    }

    fn logits(&self, ids: &[u32]) -> Vec<f32> {
        let mut cache = Cache::new(false, DType::F32, &self.config, &Device::Cpu).unwrap();
        let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        self.model.forward(&ids, 0, &mut cache).unwrap().i(0).unwrap().to_vec1().unwrap()
    }
}

fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    best.0 as u32
}

fn shapes() -> impl Strategy<Value = Shape> {
    let heads = prop::sample::select(vec![(1usize, 1usize), (4, 4), (4, 1), (8, 2), (8, 1), (6, 2)]);
    let head_dim = prop::sample::select(vec![8usize, 16, 32, 64, 128]);
    (heads, head_dim, any::<bool>(), any::<bool>()).prop_map(|((heads, kv_heads), head_dim, tied, llama3)| Shape {
        heads,
        kv_heads,
        head_dim,
        tied,
        llama3,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Logits at the borders of pages, and what greedy decoding makes of a prompt, sharing and pages and all.
    #[test]
    fn another_llama_computes_the_same(shape in shapes(), stride in 1..400usize) {
        let weights = shape.weights();
        let (mut ours, oracle) = (shape.load(&weights, &LoadOptions { model: "random".into(), ..LoadOptions::default() }), Oracle::new(shape, &weights));
        let ids: Vec<u32> = (0..70).map(|at| ((at * stride + at * at) % Shape::VOCABULARY) as u32).collect();
        for len in [1, 2, 31, 32, 33, 64, 65, 70] {
            let (expected, got) = (oracle.logits(&ids[..len]), ours.logits(&ids[..len], &[len as u32 - 1]).unwrap().remove(0));
            for (expected, got) in expected.iter().zip(&got) {
                prop_assert!((expected - got).abs() < 1e-3 * (1.0 + expected.abs()), "{:?}, {} tokens: {} {}", shape, len, expected, got);
            }
        }
        let requests: Vec<TokenRequest> = [30usize, 32, 40]
            .map(|len| TokenRequest::Generate {
                prompt: ids[..len].to_vec(), max_new: 6, end: Vec::new(), sampling: Sampling::GREEDY, sample: 0,
            })
            .to_vec();
        let mut answers = vec![Vec::new(); requests.len()];
        let mut done = |index: usize, output| {
            if let TokenOutput::Generated { tokens, .. } = output {
                answers[index] = tokens;
            }
            ControlFlow::Continue(())
        };
        ours.run(&requests, &mut Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true }).unwrap();
        for (request, answer) in requests.iter().zip(&answers) {
            let mut sequence = request.prompt().to_vec();
            for token in answer {
                let logits = oracle.logits(&sequence);
                let lead = logits[best(&logits) as usize] - logits[*token as usize];
                prop_assert!(lead < 1e-3, "{:?}: {} leads {} by {}", shape, best(&logits), token, lead);
                sequence.push(*token);
            }
            prop_assert_eq!(answer.len(), 6);
        }
    }
}
