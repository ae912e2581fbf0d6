// compiled_model.cpp: the operator dcc:CompiledModel, a whole model run by an inner session (FORMAT.md 9.2).
#include <cstring>

#include "ort/inner_session.h"

namespace dcc::ort {
namespace {

Owned<OrtEnv> open_env(const Registration& owner) {
  try {
    return {get<OrtEnv*>(owner.api, owner.api.CreateEnv, kLogWarning, "dcc"), owner.api.ReleaseEnv};
  } catch (const Failure& failure) {
    refuse("onnxruntime " + owner.runtime +
           " cannot open a session inside a session (in Python that takes 1.23); use a newer onnxruntime, or compile "
           "with --emit graph (" +
           failure.what() + ")");
  }
}

// An input or output of the inner session, and its type as both sides know it.
struct Port {
  std::string name;
  TensorType type;
};

// What reads names, types and counts of the inputs, and what of the outputs.
struct PortFunctions {
  const char* kind;
  OrtStatus* (*session_count)(const OrtSession*, size_t*);
  OrtStatus* (*session_name)(const OrtSession*, size_t, OrtAllocator*, char**);
  OrtStatus* (*session_type)(const OrtSession*, size_t, OrtTypeInfo**);
  OrtStatus* (*node_type)(const OrtKernelInfo*, size_t, OrtTypeInfo**);
};

PortFunctions input_functions(const Api& api) {
  return {"input", api.SessionGetInputCount, api.SessionGetInputName, api.SessionGetInputTypeInfo,
          api.KernelInfo_GetInputTypeInfo};
}

PortFunctions output_functions(const Api& api) {
  return {"output", api.SessionGetOutputCount, api.SessionGetOutputName, api.SessionGetOutputTypeInfo,
          api.KernelInfo_GetOutputTypeInfo};
}

// The inner session's inputs or outputs, of which the node has `count`. Outer graph and inner model are written by
// different hands, as far as anyone knows: what both say must agree.
std::vector<Port> matched_ports(const Api& api, const OrtKernelInfo* info, const OrtSession* session,
                                const PortFunctions& functions, size_t count) {
  const std::string kind = functions.kind;
  const auto inside = get<size_t>(api, functions.session_count, session);
  if (inside != count)
    refuse("the inner model has another number of " + kind + "s: " + std::to_string(inside) + ", not " +
           std::to_string(count));
  std::vector<Port> ports;
  for (size_t i = 0; i < count; ++i) {
    const std::string name = read_name(api, functions.session_name, session, i);
    const std::string what = kind + " '" + name + "'";
    const TensorType outer =
        declared_type(api, get<OrtTypeInfo*>(api, functions.node_type, info, i), what + " of the graph");
    TensorType inner =
        declared_type(api, get<OrtTypeInfo*>(api, functions.session_type, session, i), what + " of the inner model");
    if (!compatible(outer, inner))
      refuse(what + ": the graph declares " + type_text(outer) + ", the inner model " + type_text(inner));
    ports.push_back({name, std::move(inner)});
  }
  return ports;
}

std::vector<const char*> names_of(const std::vector<Port>& ports) {
  std::vector<const char*> names;
  for (const Port& port : ports) names.push_back(port.name.c_str());
  return names;
}

// Bytes of a tensor whose elements are plain memory.
size_t byte_count(const TensorType& type) {
  size_t bytes = element_size(type.element);
  for (const int64_t extent : type.dims)
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(extent), &bytes))
      refuse("a tensor has an impossible shape");
  return bytes;
}

class CompiledModel {
 public:
  CompiledModel(const Context& context, const OrtKernelInfo* info) try
      : api_(context.owner.api),
        env_(open_env(context.owner)),
        inner_(open_inner_session(context, info, env_.get(), model_inputs(api_, info))),
        inputs_(matched_ports(api_, info, inner_.session.get(), input_functions(api_), model_inputs(api_, info))),
        outputs_(matched_ports(api_, info, inner_.session.get(), output_functions(api_),
                               get<size_t>(api_, api_.KernelInfo_GetOutputCount, info))),
        input_names_(names_of(inputs_)),
        output_names_(names_of(outputs_)),
        budget_(context.budget) {
  } catch (const std::exception& error) {
    refuse(node_text(context.owner.api, info) + ": " + error.what());
  }

  // Inputs go to the inner session as they are, which compares their types with its own. Its outputs are copied: their
  // shapes may be known only after the run, and a declared shape, even a static one, binds nobody.
  void compute(OrtKernelContext* context) const {
    std::vector<const OrtValue*> inputs(inputs_.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      check(api_, api_.KernelContext_GetInput(context, i, &inputs[i]));
      if (!inputs[i]) refuse("input '" + inputs_[i].name + "' is missing");
    }
    std::vector<OrtValue*> results(outputs_.size());
    check(api_, api_.Run(inner_.session.get(), nullptr, input_names_.data(), inputs.data(), inputs.size(),
                         output_names_.data(), results.size(), results.data()));
    std::vector<Owned<OrtValue>> owned;
    for (OrtValue* result : results) owned.emplace_back(result, api_.ReleaseValue);
    for (size_t i = 0; i < owned.size(); ++i) copy_output(context, i, owned[i].get());
  }

 private:
  static size_t model_inputs(const Api& api, const OrtKernelInfo* info) {
    const auto count = get<int64_t>(api, api.KernelInfoGetAttribute_int64, info, "model_inputs");
    if (count < 0) refuse("attribute model_inputs is negative");
    return static_cast<size_t>(count);
  }

  // Compares the tensors at hand once more: no byte is copied on the word of a declaration.
  void copy_output(OrtKernelContext* context, size_t index, const OrtValue* result) const {
    if (!result) refuse("output '" + outputs_[index].name + "' was not computed");
    const TensorType type = type_of(api_, result);
    if (type.element != outputs_[index].type.element) refuse_output(index, type, outputs_[index].type);
    const size_t bytes = byte_count(type);
    OrtValue* output = nullptr;
    check(api_, api_.KernelContext_GetOutput(context, index, type.dims.data(), type.dims.size(), &output));
    if (!output) return;  // nobody asked for it
    const TensorType room = type_of(api_, output);
    if (room.element != type.element || room.dims != type.dims) refuse_output(index, type, room);
    if (bytes) std::memcpy(data_of(api_, output), data_of(api_, result), bytes);
  }

  [[noreturn]] void refuse_output(size_t index, const TensorType& result, const TensorType& room) const {
    refuse("output '" + outputs_[index].name + "': the inner model gave " + type_text(result) + ", where " +
           type_text(room) + " belongs");
  }

  const Api& api_;
  Owned<OrtEnv> env_;
  InnerSession inner_;
  std::vector<Port> inputs_, outputs_;
  std::vector<const char*> input_names_, output_names_;
  std::shared_ptr<Budget> budget_;  // kept while the session lives
};

}  // namespace

Operator compiled_model_operator(const Registration& owner) {
  Operator op(owner, [](const OrtCustomOp*) { return "CompiledModel"; });
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return kElementUndefined; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kElementUndefined; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicVariadic; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicVariadic; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  use_kernel<CompiledModel>(op);
  return op;
}

}  // namespace dcc::ort
