// edited_session.cpp: edited_session.h.
#include "ort/edited_session.h"

namespace dcc::ort {
namespace {

// The inputs of the graph but for its last ones, `left_out`.
std::vector<Owned<OrtValueInfo>> inputs_of(const Api& api, const ModelEditor& editor, const OrtSession* session,
                                           size_t left_out) {
  std::vector<Owned<OrtValueInfo>> inputs;
  const auto count = get<size_t>(api, api.SessionGetInputCount, session);
  for (size_t i = 0; i + left_out < count; ++i) {
    const std::string name = read_name(api, api.SessionGetInputName, session, i);
    const Owned<OrtTypeInfo> type(get<OrtTypeInfo*>(api, api.SessionGetInputTypeInfo, session, i), api.ReleaseTypeInfo);
    inputs.emplace_back(get<OrtValueInfo*>(api, editor.CreateValueInfo, name.c_str(), type.get()),
                        api.ReleaseValueInfo);
  }
  return inputs;
}

// The graph takes what it is given once it has not refused it.
void set_inputs(const Api& api, const ModelEditor& editor, OrtGraph* graph, std::vector<Owned<OrtValueInfo>> inputs) {
  std::vector<OrtValueInfo*> handles;
  for (const Owned<OrtValueInfo>& input : inputs) handles.push_back(input.get());
  check(api, editor.SetGraphInputs(graph, handles.data(), handles.size()));
  for (Owned<OrtValueInfo>& input : inputs) input.release();
}

void add_initializer(const Api& api, const ModelEditor& editor, OrtGraph* graph, const std::string& name,
                     Owned<OrtValue> value) {
  constexpr bool kIsExternal = true;  // used where it is, not copied
  check(api, editor.AddInitializerToGraph(graph, name.c_str(), value.get(), kIsExternal));
  value.release();
}

}  // namespace

bool has_model_editor(const Api& api) { return api.GetModelEditorApi && api.GetModelEditorApi(); }

Owned<OrtSession> open_edited_session(const Api& api, const OrtEnv* env, const OrtSessionOptions* options,
                                      const InnerModel& model, const uint8_t* message, WeightMemory& memory) {
  const ModelEditor editor(api.GetModelEditorApi());
  Owned<OrtSession> session(
      get<OrtSession*>(api, editor.CreateModelEditorSessionFromArray, env, message, model.serialized_size(), options),
      api.ReleaseSession);
  Owned<OrtGraph> graph(get<OrtGraph*>(api, editor.CreateGraph), api.ReleaseGraph);
  size_t external = 0;
  for (const Payload& payload : model.payloads()) {
    for (const Weight& weight : payload.weights) {
      if (!weight.external) continue;
      ++external;
      add_initializer(api, editor, graph.get(), weight.name, memory.value(weight));
    }
  }
  if (external) {
    set_inputs(api, editor, graph.get(), inputs_of(api, editor, session.get(), external));
    const Owned<OrtModel> change(get<OrtModel*>(api, editor.CreateModel, nullptr, nullptr, size_t{0}),
                                 api.ReleaseModel);
    check(api, editor.AddGraphToModel(change.get(), graph.get()));
    graph.release();  // the model's now
    check(api, editor.ApplyModelToModelEditorSession(session.get(), change.get()));
  }
  check(api, editor.FinalizeModelEditorSession(session.get(), options, nullptr));
  return session;
}

}  // namespace dcc::ort
