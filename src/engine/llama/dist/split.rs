//! Which replica answers which request. A pure function of the requests and the number of replicas: no load, no clock.
//!
//! In the order of their tokens requests stand as the leaves of the prefix tree do, so that a run of neighbours is a run of whole subtrees and
//! what it shares is computed once by its replica. What a run costs is known beforehand but for the length of answers, which counts as its
//! limit. The largest run is made as small as such cuts allow.

use crate::engine::llama::batch::TokenRequest;
use crate::engine::llama::plan::Sharing;

/// What one request costs, in tokens.
#[derive(Clone, Copy)]
struct Cost {
    /// Behind its neighbour, which shares a beginning with it.
    after: u64,
    /// As the first of a replica.
    first: u64,
}

/// Indices of the requests of each replica; some have none where there are fewer requests than replicas.
pub(super) fn split(requests: &[TokenRequest], replicas: usize, sharing: Sharing) -> Vec<Vec<usize>> {
    let tokens: Vec<Vec<u32>> = requests.iter().map(TokenRequest::computed).collect();
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|a, b| tokens[*a].cmp(&tokens[*b]).then(a.cmp(b)));
    let costs: Vec<Cost> = order
        .iter()
        .enumerate()
        .map(|(at, request)| {
            let before = at.checked_sub(1).map_or(&[][..], |at| tokens[order[at]].as_slice());
            let own = &tokens[*request];
            let shared = match sharing {
                Sharing::Prefixes => own.iter().zip(before).take_while(|(a, b)| a == b).count(),
                Sharing::Nothing => 0,
            };
            let new = requests[*request].most_new_tokens() as u64;
            // One more, so that requests that cost nothing of their own are spread too.
            Cost { after: (own.len() - shared) as u64 + new + 1, first: own.len() as u64 + new + 1 }
        })
        .collect();
    let mut parts: Vec<Vec<usize>> = cut(&costs, smallest(&costs, replicas)).into_iter().map(|range| order[range].to_vec()).collect();
    parts.resize(replicas, Vec::new());
    parts
}

/// The smallest limit under which the requests fit into so many runs.
fn smallest(costs: &[Cost], replicas: usize) -> u64 {
    let (mut fits, mut too_small) = (costs.iter().map(|cost| cost.first).sum::<u64>(), 0);
    while fits - too_small > 1 {
        let limit = too_small + (fits - too_small) / 2;
        if costs.iter().all(|cost| cost.first <= limit) && cut(costs, limit).len() <= replicas {
            fits = limit;
        } else {
            too_small = limit;
        }
    }
    fits
}

/// Runs of neighbours, each as long as the limit allows.
fn cut(costs: &[Cost], limit: u64) -> Vec<std::ops::Range<usize>> {
    let (mut runs, mut start, mut sum) = (Vec::new(), 0, 0);
    for (at, cost) in costs.iter().enumerate() {
        if at > start && sum + cost.after > limit {
            runs.push(start..at);
            (start, sum) = (at, 0);
        }
        sum += if at == start { cost.first } else { cost.after };
    }
    if start < costs.len() {
        runs.push(start..costs.len());
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Sampling;
    use crate::engine::llama::plan;
    use proptest::prelude::*;

    fn generate(prompt: Vec<u32>, max_new: usize) -> TokenRequest {
        TokenRequest::Generate { prompt, max_new, end: Vec::new(), sampling: Sampling::GREEDY, sample: 0 }
    }

    #[test]
    fn questions_are_dealt_in_whole_subtrees() {
        // Two subjects with shots of their own, four questions each, asked in turn.
        let ask = |subject: u32, question: u32| generate([vec![subject; 50], vec![question; 10]].concat(), 5);
        let requests: Vec<TokenRequest> = (0..4).flat_map(|question| [ask(1, question), ask(2, question)]).collect();
        assert_eq!(split(&requests, 2, Sharing::Prefixes), [vec![0, 2, 4, 6], vec![1, 3, 5, 7]]);
        assert_eq!(split(&requests[..1], 3, Sharing::Prefixes), [vec![0], vec![], vec![]]);
        assert_eq!(split(&[], 2, Sharing::Prefixes), [vec![], vec![]] as [Vec<usize>; 2]);
    }

    #[test]
    fn samples_of_one_prompt_are_spread() {
        let requests: Vec<TokenRequest> = (0..10).map(|_| generate(vec![1, 2, 3], 100)).collect();
        let sizes: Vec<usize> = split(&requests, 4, Sharing::Prefixes).iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 3, 3, 1]);
    }

    /// Tokens that a replica computes for its part, by the tree that its schedule walks.
    fn computed(requests: &[TokenRequest], part: &[usize]) -> usize {
        let own: Vec<Vec<u32>> = part.iter().map(|at| requests[*at].computed()).collect();
        let new: usize = part.iter().map(|at| requests[*at].most_new_tokens() + 1).sum();
        plan::prefix_tree(&own).iter().map(|node| node.end - node.start).sum::<usize>() + new
    }

    proptest! {
        #[test]
        fn every_request_has_one_replica_and_no_replica_much_more_than_another(
            prompts in prop::collection::vec((prop::collection::vec(0..3u32, 1..12), 1..4usize), 0..40), replicas in 1..5usize
        ) {
            let requests: Vec<TokenRequest> = prompts.into_iter().map(|(prompt, max_new)| generate(prompt, max_new)).collect();
            let parts = split(&requests, replicas, Sharing::Prefixes);
            prop_assert_eq!(parts.len(), replicas);
            let mut all = parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..requests.len()).collect::<Vec<_>>());
            // No part is larger than an even one and the request that did not fit into it, computed from its first token on.
            let whole = computed(&requests, &(0..requests.len()).collect::<Vec<_>>());
            let largest = requests.iter().map(|r| r.computed().len() + r.most_new_tokens() + 1).max().unwrap_or(0);
            for part in &parts {
                prop_assert!(computed(&requests, part) <= whole.div_ceil(replicas) + 2 * largest, "{:?}", part);
            }
        }
    }
}
