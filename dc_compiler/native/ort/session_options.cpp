// session_options.cpp: which options an inner session takes over from the outer one.
#include "ort/session_options.h"

#include <algorithm>
#include <iterator>
#include <string_view>

namespace dcc::ort {
namespace {

// Entries (onnxruntime_session_options_config_keys.h) that say how to compute, not where a model lies or goes.
constexpr std::string_view kCarried[] = {
    "optimization.constant_folding_max_output_size_in_bytes",
    "optimization.disable_specified_optimizers",
    "optimization.enable_cast_chain_elimination",
    "optimization.enable_gelu_approximation",
    "optimization.enable_memory_probe_recompute_config",
    "optimization.memory_optimizer_config",
    "session.allow_released_opsets_only",
    "session.debug_layout_transformation",
    "session.disable_aot_function_inlining",
    "session.disable_cpu_ep_fallback",
    "session.disable_double_qdq_remover",
    "session.disable_model_compile",
    "session.disable_prepacking",
    "session.disable_qdq_constant_folding",
    "session.disable_quant_qdq",
    "session.dynamic_block_base",
    "session.enable_dq_matmulnbits_fusion",
    "session.enable_quant_qdq_cleanup",
    "session.fail_on_suboptimal_compiled_model",
    "session.force_spinning_stop",
    "session.graph_optimizations_loop_level",
    "session.inter_op.allow_spinning",
    "session.inter_op.spin_backoff_max",
    "session.inter_op.spin_duration_us",
    "session.intra_op.allow_spinning",
    "session.intra_op.spin_backoff_max",
    "session.intra_op.spin_duration_us",
    "session.intra_op_thread_affinities",
    "session.max_shape_override",
    "session.qdq_matmulnbits_accuracy_level",
    "session.qdq_matmulnbits_block_size",
    "session.qdqisint8allowed",
    "session.set_denormal_as_zero",
    "session.strict_shape_type_inference",
    "session.use_device_allocator_for_initializers",
    "session.use_env_allocators",
    "session.x64quantprecision",
};
// Groups of entries to carry: processors' and providers' own settings, and this library's
constexpr std::string_view kCarriedGroups[] = {"mlas.", "ep.", "dcc."};

// Entries within those groups, and flags and sizes outside of them, that fit the outer file alone, with what turns them
// off; an empty text turns off any other.
struct Neutral {
  std::string_view key;
  const char* value;
};
constexpr Neutral kNeutral[] = {
    {"ep.context_embed_mode", "0"},
    {"ep.context_enable", "0"},
    {"ep.context_file_path", ""},
    {"ep.context_model_external_initializers_file_name", ""},
    {"ep.context_node_name_prefix", ""},
    {"ep.context_source_model_path", ""},
    {"ep.enable_weightless", "0"},
    {"ep.enable_weightless_ep_context_nodes", "0"},
    {"ep.share_ep_contexts", "0"},
    {"ep.stop_share_ep_contexts", "0"},
    {"optimization.minimal_build_optimizations", ""},
    {"session.collect_node_memory_stats_to_file", ""},
    {"session.compile_only", "0"},
    {"session.load_model_format", ""},
    {"session.model_external_initializers_file_folder_path", ""},
    {"session.node_partition_config_file", ""},
    {"session.optimized_model_external_initializers_file_name", ""},
    {"session.optimized_model_external_initializers_min_size_in_bytes", "0"},
    {"session.record_ep_graph_assignment_info", "0"},
    {"session.resource_cuda_partitioning_settings", ""},
    {"session.save_external_prepacked_constant_initializers", "0"},
    {"session.save_model_format", ""},
    {"session.use_memory_mapped_ort_model", "0"},
    {"session.use_ort_model_bytes_directly", "0"},
    {"session.use_ort_model_bytes_for_initializers", "0"},
};

const Neutral* find_neutral(std::string_view key) {
  const auto* found =
      std::find_if(std::begin(kNeutral), std::end(kNeutral), [&](const Neutral& n) { return n.key == key; });
  return found == std::end(kNeutral) ? nullptr : found;
}

bool is_carried(std::string_view key) {
  if (std::find(std::begin(kCarried), std::end(kCarried), key) != std::end(kCarried)) return true;
  const bool grouped = std::any_of(std::begin(kCarriedGroups), std::end(kCarriedGroups),
                                   [&](std::string_view group) { return key.substr(0, group.size()) == group; });
  return grouped && !find_neutral(key);
}

// The entries of `options`; of runtimes that do not list them (before 1.23), those that the table of neutral values
// knows.
Entries list_entries(const Api& api, const OrtSessionOptions* options) {
  if (api.GetSessionOptionsConfigEntries)
    return read_entries(api, get<OrtKeyValuePairs*>(api, api.GetSessionOptionsConfigEntries, options));
  Entries entries;
  for (const Neutral& neutral : kNeutral)
    if (get<int>(api, api.HasSessionConfigEntry, options, neutral.key.data())) entries[std::string(neutral.key)];
  return entries;
}

}  // namespace

Entries read_entries(const Api& api, OrtKeyValuePairs* pairs) {
  const Owned<OrtKeyValuePairs> owner(pairs, api.ReleaseKeyValuePairs);
  const char* const* keys = nullptr;
  const char* const* values = nullptr;
  size_t count = 0;
  api.GetKeyValuePairs(pairs, &keys, &values, &count);
  Entries entries;
  for (size_t i = 0; i < count; ++i) entries[keys[i]] = values[i];
  return entries;
}

std::string entry_of(const Api& api, const OrtSessionOptions* options, const char* key) {
  if (!get<int>(api, api.HasSessionConfigEntry, options, key)) return {};
  return get_string(api, api.GetSessionConfigEntry, options, key);
}

Owned<OrtSessionOptions> inner_options(const Api& api, const OrtSessionOptions* registered) {
  Owned<OrtSessionOptions> options(get<OrtSessionOptions*>(api, api.CloneSessionOptions, registered),
                                   api.ReleaseSessionOptions);
  check(api, api.DisableProfiling(options.get()));
  check(api, api.SetOptimizedModelFilePath(options.get(), ""));
  for (const auto& [key, value] : list_entries(api, registered)) {
    if (is_carried(key)) continue;
    const Neutral* neutral = find_neutral(key);
    check(api, api.AddSessionConfigEntry(options.get(), key.c_str(), neutral ? neutral->value : ""));
  }
  return options;
}

}  // namespace dcc::ort
