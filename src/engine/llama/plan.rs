//! The exact prefix tree over all token sequences of one serving: what is shared is computed once.
//!
//! A pure function of the sequences. Nodes come in depth-first order, children by their first token.

/// A run of tokens that the same set of sequences shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// A sequence that has these tokens.
    pub owner: usize,
    /// First position.
    pub start: usize,
    /// One past the last position.
    pub end: usize,
    /// Index of the node before it, if any.
    pub parent: Option<usize>,
    /// Nodes that go on from here.
    pub children: Vec<usize>,
    /// How many sequences have these tokens.
    pub sequences: usize,
    /// Sequences that end with this node's last token.
    pub ends: Vec<usize>,
}

/// Whether sequences that begin alike are computed together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// A common beginning is computed once.
    #[default]
    Prefixes,
    /// Every sequence is computed by itself: to measure what sharing saves.
    Nothing,
}

/// The nodes that are computed: a tree, or a root for each sequence.
pub fn nodes(sequences: &[Vec<u32>], sharing: Sharing) -> Vec<Node> {
    match sharing {
        Sharing::Prefixes => prefix_tree(sequences),
        Sharing::Nothing => {
            let alone = |(owner, sequence): (usize, &Vec<u32>)| Node {
                owner,
                start: 0,
                end: sequence.len(),
                parent: None,
                children: Vec::new(),
                sequences: 1,
                ends: vec![owner],
            };
            sequences.iter().enumerate().filter(|(_, s)| !s.is_empty()).map(alone).collect()
        }
    }
}

/// Builds the tree. Empty sequences are in no node.
pub fn prefix_tree(sequences: &[Vec<u32>]) -> Vec<Node> {
    let mut order: Vec<usize> = (0..sequences.len()).filter(|i| !sequences[*i].is_empty()).collect();
    order.sort_by(|a, b| sequences[*a].cmp(&sequences[*b]).then(a.cmp(b)));
    let mut nodes: Vec<Node> = Vec::new();
    // A group of neighbours in sorted order that agree on their first `depth` tokens, and the node that holds those.
    let mut open: Vec<(std::ops::Range<usize>, usize, Option<usize>)> = Vec::new();
    push_groups(&mut open, sequences, &order, 0..order.len(), 0, None);
    while let Some((range, start, parent)) = open.pop() {
        let (first, last) = (&sequences[order[range.start]], &sequences[order[range.end - 1]]);
        // In sorted order, what the first and the last share is shared by all between them.
        let end = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let index = nodes.len();
        let ending = order[range.clone()].iter().take_while(|i| sequences[**i].len() == end).count();
        let ends = order[range.start..range.start + ending].to_vec();
        nodes.push(Node { owner: order[range.start], start, end, parent, children: Vec::new(), sequences: range.len(), ends });
        if let Some(parent) = parent {
            nodes[parent].children.push(index);
        }
        push_groups(&mut open, sequences, &order, range.start + ending..range.end, end, Some(index));
    }
    nodes
}

/// Splits a range by the token at `depth` and pushes the parts so that the first comes off first.
fn push_groups(
    open: &mut Vec<(std::ops::Range<usize>, usize, Option<usize>)>,
    sequences: &[Vec<u32>],
    order: &[usize],
    range: std::ops::Range<usize>,
    depth: usize,
    parent: Option<usize>,
) {
    let mut groups = Vec::new();
    let mut start = range.start;
    for group in order[range].chunk_by(|a, b| sequences[*a][depth] == sequences[*b][depth]) {
        groups.push((start..start + group.len(), depth, parent));
        start += group.len();
    }
    open.extend(groups.into_iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spelled(nodes: &[Node], sequences: &[Vec<u32>], mut at: usize) -> Vec<u32> {
        let mut parts = vec![sequences[nodes[at].owner][nodes[at].start..nodes[at].end].to_vec()];
        while let Some(parent) = nodes[at].parent {
            at = parent;
            parts.push(sequences[nodes[at].owner][nodes[at].start..nodes[at].end].to_vec());
        }
        parts.into_iter().rev().flatten().collect()
    }

    #[test]
    fn shots_are_one_node_and_choices_are_leaves() {
        let sequences = vec![vec![1, 2, 3, 10, 11], vec![1, 2, 3, 20], vec![1, 2, 3, 10, 12], vec![1, 2, 3], vec![1, 2, 3]];
        let nodes = prefix_tree(&sequences);
        let shape: Vec<(usize, usize, Option<usize>, &[usize])> =
            nodes.iter().map(|n| (n.start, n.end, n.parent, n.ends.as_slice())).collect();
        assert_eq!(
            shape,
            [(0, 3, None, &[3, 4][..]), (3, 4, Some(0), &[]), (4, 5, Some(1), &[0]), (4, 5, Some(1), &[2]), (3, 4, Some(0), &[1]),]
        );
        assert_eq!(nodes[0].children, [1, 4]);
    }

    proptest! {
        #[test]
        fn every_sequence_ends_once_at_a_node_that_spells_it(
            sequences in proptest::collection::vec(proptest::collection::vec(0..3u32, 0..9), 0..30)
        ) {
            let nodes = prefix_tree(&sequences);
            let mut seen = vec![0; sequences.len()];
            for (at, node) in nodes.iter().enumerate() {
                prop_assert!(node.start < node.end);
                prop_assert!(node.parent.is_none_or(|p| p < at && nodes[p].end == node.start && nodes[p].children.contains(&at)));
                let sharers = sequences.iter().filter(|s| s.starts_with(&spelled(&nodes, &sequences, at)));
                prop_assert_eq!(node.sequences, sharers.count());
                for end in &node.ends {
                    seen[*end] += 1;
                    prop_assert_eq!(&spelled(&nodes, &sequences, at), &sequences[*end]);
                }
                // No two children begin alike: nothing shared is computed twice.
                let firsts: std::collections::BTreeSet<u32> =
                    node.children.iter().map(|c| sequences[nodes[*c].owner][nodes[*c].start]).collect();
                prop_assert_eq!(firsts.len(), node.children.len());
            }
            for (sequence, seen) in sequences.iter().zip(seen) {
                prop_assert_eq!(seen, usize::from(!sequence.is_empty()));
            }
        }
    }
}
