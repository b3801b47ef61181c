"""Knows by the name of a metric whether larger or smaller values of it are better.

The names are those of ``evaluate``, scikit-learn, torchmetrics, sentence-transformers, TRL and the usual papers. The
last word of a name counts: ``error_detection_f1`` is an F1, ``bleu_loss`` a loss. Words that only qualify it are
skipped, as in ``f1_macro`` and ``recall@5``. A name that ends in an unknown word has no known direction:
``loss_reduction`` is no loss.
"""

import re

from hf_rlsearch._validation import words

MINIMIZE, MAXIMIZE = "minimize", "maximize"

_LOWER_WORDS = words(
    """
    loss losses logloss mlogloss xent crossentropy bce perplexity ppl nll bpb bpc bpd bit nat brier ibs crps ece mce
    wer cer ter mer wil hter eed cder eer der jer mcd mse rmse nrmse mae mape smape wmape medae msle rmsle mase rse
    rae error err mistakes misclassification hamming hinge zeroone pinball huber deviance divergence jsd kld mmd
    distance levenshtein hausdorff hd95 assd fid kid mifid lpips dists ergas rase fpr fnr fdr frr far hter mindcf dcf
    aurc fallout miss misses failure lost latency runtime regret cost distortion disparity l1 l2 ade fde mpjpe
    toxicity harmfulness hallucination bouldin
    """
)
_HIGHER_WORDS = words(
    """
    accuracy accuracies acc precision prec recall f1 f2 fbeta idf1 specificity sensitivity tpr tnr npv ppv auc auroc
    rocauc auprc aupr aucpr prauc ap lrap map mar ndcg dcg mrr rr bpref hit pass matthews mcc corrcoef correlation
    corr pearson pearsonr spearman spearmanr kendall kendalltau tau pcc plcc srcc krcc lcc icc ccc concordance cindex
    r2 bleu sacrebleu gleu chrf rouge rouge1 rouge2 rougel rougelsum meteor nist cider spice sari bleurt comet
    bertscore moverscore bartscore mauve exact exactmatch em kappa qwk jaccard iou miou giou diou ciou dice pq mota
    hota motp pck oks gmean similarity psnr ssim msssim mssim vif uqi qnr inception clipscore pesq stoi sdr sisdr snr
    sisnr srmr mos dnsmos vmaf silhouette calinski harabasz dunn rand ari ami nmi homogeneity completeness mallows
    fmeasure fscore likelihood loglikelihood loglik elbo reward return win winrate success successes solved correct
    correctness margin throughput speed speedup elo smatch las uas preserved quality faithfulness relevance relevancy
    groundedness factuality helpfulness harmlessness coherence fluency
    """
)
# Of several words, most of which mean something else alone.
_LOWER_PHRASES = (
    "cross entropy",
    "zero one",
    "log cosh",
    "perceptual path length",
    "patch similarity",
    "edit rate",
    "mean rank",
    "median rank",
    "average rank",
    "self bleu",
    "fall out",
    *(f"false {what}" for what in ("positive", "negative", "alarm", "discovery", "omission")),
    *(f"false {what}" for what in ("accept", "acceptance", "reject", "rejection", "match", "non match")),
)
_HIGHER_PHRASES = (
    "explained variance",
    "variance explained",
    "average precision",
    "reciprocal rank",
    "recip rank",
    "r squared",
    "g mean",
    "c index",
    "v measure",
    "mutual info",
    "mutual information",
    "cramers v",
    "theils u",
    "success index",
    "positive predictive value",
    "negative predictive value",
    "exact match",
    "clip score",
    "f measure",
    "f score",
    "noise ratio",
    "distortion ratio",
    "average return",
    *(f"true {what}" for what in ("positive", "negative", "accept", "match")),
)
_KNOWN = {
    **dict.fromkeys((*_LOWER_WORDS, *_LOWER_PHRASES), MINIMIZE),
    **dict.fromkeys((*_HIGHER_WORDS, *_HIGHER_PHRASES), MAXIMIZE),
}
_LONGEST = max(len(phrase.split()) for phrase in _KNOWN)
# Words behind the one that counts which do not change what is measured.
_QUALIFIERS = words(
    """
    macro micro weighted samples binary multiclass ovr ovo avg average mean median max min overall total all score
    scores rate value index measure coefficient coef norm normalized strict percent pct k l lsum sum cosine dot
    manhattan euclidean test val valid validation dev eval positive negative
    """
)
_NEGATIONS = words("neg negative negated minus")
# What is measured cannot be known from the rest of a name with one of these words.
_OBSCURING = words("no non not anti inv inverse delta diff difference missing without attack")
_OPPOSITE = {MINIMIZE: MAXIMIZE, MAXIMIZE: MINIMIZE}


def known_direction(name: str) -> str | None:
    """Returns "minimize" or "maximize" for the name of a metric; None where the name does not tell."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)  # MulticlassF1Score
    found = _direction(_words(name)) or _direction(_words(spaced))
    is_complement = re.match(r"(eval_)?1 ?-", name.lower()) is not None
    return _OPPOSITE[found] if found and is_complement else found


def is_ambiguous(name: str) -> bool:
    """Returns whether the words of a name point to both directions, as those of ``error_f1`` do."""
    return len({_KNOWN[word] for word in _words(name) if word in _KNOWN}) > 1


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+[0-9]*|[0-9]+", name.lower().replace("@", " at "))


def _direction(words: list[str]) -> str | None:
    """The direction of the last word or phrase that has one; None if an unknown word comes behind it."""
    if "at" in words[1:] and not words[-1].startswith("loss"):  # fpr_at_95_tpr is an FPR
        words = words[: words.index("at", 1)]
    while words:
        for length in range(min(_LONGEST, len(words)), 0, -1):
            rest, phrase = words[:-length], " ".join(words[-length:])
            # ap50 is an AP, precisions are a precision each
            if found := _KNOWN.get(phrase) or _KNOWN.get(phrase.rstrip("0123456789").removesuffix("s")):
                return _in_context(found, rest)
        if "per" in words[1:-1]:  # bits_per_byte counts bits, samples_per_second is a speed
            cut = words.index("per", 1)
            is_speed = words[cut + 1] in ("second", "sec", "minute", "hour")
            return _direction(words[:cut]) or (MAXIMIZE if is_speed else None)
        if not (words[-1] in _QUALIFIERS or words[-1].isdigit()):
            return None
        words = words[:-1]
    return None


def _in_context(found: str, before: list[str]) -> str | None:
    """The direction of a metric with the words before it: scikit-learn's neg_log_loss is larger when better."""
    if _OBSCURING.intersection(before):
        return None
    if "d2" in before:  # scikit-learn's d2_absolute_error_score is the share of an error that is explained
        return MAXIMIZE
    is_negated = sum(word in _NEGATIONS for word in before) % 2 == 1
    return _OPPOSITE[found] if is_negated else found
