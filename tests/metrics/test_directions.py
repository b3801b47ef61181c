"""Which way the metrics of the usual libraries are better, by their names."""

import pytest

from hf_rlsearch._validation import words
from hf_rlsearch.metrics.directions import known_direction

LOWER = words(
    """
    loss wer cer mer wil ter mae mse rmse mape smape medae msle perplexity ppl bpc bits_per_byte nll log_loss
    cross_entropy brier_score ece eer hter hamming_loss error error_rate edit_distance levenshtein fid
    kl_divergence jsd fpr fnr false_positive_rate max_error mean_absolute_error root_mean_squared_error hinge
    zero_one_loss bleu_loss l1 l2 mean_rank pinball_loss deviance tokens_per_second_loss accuracy_error
    negative_log_likelihood expected_calibration_error davies_bouldin_score coverage_error word_information_lost
    KLDivergence BinaryHammingDistance CharErrorRate TranslationEditRate LearnedPerceptualImagePatchSimilarity
    fpr_at_95_tpr fpr95 nats_per_token 1-accuracy one_minus_f1 self_bleu runtime latency
    """
)
HIGHER = words(
    """
    accuracy f1 f1_macro macro_f1 precision recall bleu sacrebleu chrf rouge1 rougeL rougeLsum meteor bertscore_f1
    comet em exact_match matthews_correlation mcc pearson spearmanr spearman_cosine r2 explained_variance roc_auc
    auroc auprc map average_precision ndcg@10 mrr hit_rate top_5_accuracy iou mIoU dice kappa gmean jaccard
    win_rate reward rewards/margins ter_accuracy error_detection_f1 hamming_accuracy distance_correlation
    neg_log_loss neg_mean_squared_error d2_absolute_error_score roc_auc_ovr_weighted precision_at_1
    prec_at_80_recall mAP50 MulticlassF1Score BLEUScore MulticlassMatthewsCorrCoef PeakSignalNoiseRatio pass@1
    acc_norm HasAns_exact adjusted_rand_score v_measure_score negative_predictive_value cosine_similarity
    mean_reciprocal_rank samples_per_second log_likelihood
    """
)
UNKNOWN = words(
    """
    zog loss_reduction error_free_rate f1_std length_ratio entropy rank score support n_params inverse_perplexity
    delta_accuracy epoch coverage attack_success_rate no_error_rate
    """
)


@pytest.mark.parametrize("prefix", ["", "eval_", "eval_mnli_"])
@pytest.mark.parametrize(
    ("names", "direction"),
    [(LOWER, "minimize"), (HIGHER, "maximize"), (UNKNOWN, None)],
    ids=["lower", "higher", "unknown"],
)
def test_names_tell_the_direction(names: frozenset[str], direction: str | None, prefix: str) -> None:
    found = {name: known_direction(prefix + name) for name in names if not (prefix and name[0].isdigit())}
    assert found == dict.fromkeys(found, direction)
