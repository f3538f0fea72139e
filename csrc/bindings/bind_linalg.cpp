#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>

#include "bindings/arrays.hpp"
#include "bindings/register.hpp"
#include "linalg/project.hpp"
#include "linalg/rsvd.hpp"
#include "linalg/similarity.hpp"
#include "simd/isa.hpp"

namespace loragraft::bindings {
namespace {

py::tuple truncated_svd_stack(const FloatStack& stack, std::size_t rank, std::size_t oversampling,
                              std::optional<std::size_t> power_iterations, std::uint64_t key,
                              std::size_t threads) {
  const std::size_t batch = extent(stack, 0);
  FloatStack u = make_stack(batch, extent(stack, 1), rank);
  FloatStack vt = make_stack(batch, rank, extent(stack, 2));
  py::array_t<float> s({batch, rank});
  const std::vector<MatrixView<float>> us = matrices_of(u);
  const std::vector<MatrixView<float>> vts = matrices_of(vt);
  float* const singular = s.mutable_data();
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    const CancelToken never;
    const Run run{.pool = pool, .cancel = never};
    pool.parallel_for(batch, [&](std::size_t i) {
      DenseOperator a(matrix_of(stack, i));
      const TruncatedSvd svd = truncated_svd(a,
                                             {.rank = rank,
                                              .oversampling = oversampling,
                                              .power_iterations = power_iterations,
                                              .key = key + i,
                                              .arithmetic = Arithmetic::floats},
                                             run);
      std::copy_n(svd.u.data(), svd.u.size(), us[i].data);
      std::copy_n(svd.vt.data(), svd.vt.size(), vts[i].data);
      std::transform(svd.s.begin(), svd.s.end(), singular + i * rank,
                     [](double x) { return static_cast<float>(x); });
    });
  }
  return py::make_tuple(std::move(u), std::move(s), std::move(vt));
}

template <class F>
void for_each(std::size_t batch, std::size_t threads, const F& body) {
  const py::gil_scoped_release release;
  ThreadPool(threads).parallel_for(batch, body);
}

FloatStack project_dense_stack(const FloatStack& d, const FloatStack& u, const FloatStack& v,
                               std::size_t threads) {
  const std::size_t batch = common_batch({&d, &u, &v});
  FloatStack out = make_stack(batch, extent(d, 1), extent(d, 2));
  const std::vector<MatrixView<float>> outs = matrices_of(out);
  for_each(batch, threads, [&](std::size_t i) {
    project_dense(matrix_of(d, i), matrix_of(u, i), matrix_of(v, i), outs[i]);
  });
  return out;
}

py::tuple project_factor_stacks(const FloatStack& b, const FloatStack& a, const FloatStack& u,
                                const FloatStack& v, std::size_t threads) {
  const std::size_t batch = common_batch({&b, &a, &u, &v});
  FloatStack out_b = make_stack(batch, extent(b, 1), extent(b, 2));
  FloatStack out_a = make_stack(batch, extent(a, 1), extent(a, 2));
  const std::vector<MatrixView<float>> bs = matrices_of(out_b);
  const std::vector<MatrixView<float>> as = matrices_of(out_a);
  for_each(batch, threads, [&](std::size_t i) {
    project_factors(matrix_of(b, i), matrix_of(a, i), matrix_of(u, i), matrix_of(v, i),
                    {bs[i], as[i]});
  });
  return py::make_tuple(std::move(out_b), std::move(out_a));
}

py::array_t<double> similarity_stack(const FloatStack& u1, const FloatStack& u2,
                                     std::size_t threads) {
  std::vector<double> out(common_batch({&u1, &u2}));
  for_each(out.size(), threads, [&](std::size_t i) {
    out[i] = subspace_similarity(matrix_of(u1, i), matrix_of(u2, i));
  });
  return array_from(std::move(out));
}

py::array_t<double> inner_product_stack(const FloatStack& x, const FloatStack& y,
                                        std::size_t threads) {
  std::vector<double> out(common_batch({&x, &y}));
  for_each(out.size(), threads,
           [&](std::size_t i) { out[i] = inner_product(matrix_of(x, i), matrix_of(y, i)); });
  return array_from(std::move(out));
}

py::array_t<double> factored_inner_product_stack(const FloatStack& b1, const FloatStack& a1,
                                                 const FloatStack& b2, const FloatStack& a2,
                                                 std::size_t threads) {
  std::vector<double> out(common_batch({&b1, &a1, &b2, &a2}));
  for_each(out.size(), threads, [&](std::size_t i) {
    out[i] = factored_inner_product(matrix_of(b1, i), matrix_of(a1, i), matrix_of(b2, i),
                                    matrix_of(a2, i));
  });
  return array_from(std::move(out));
}

py::array_t<double> mixed_inner_product_stack(const FloatStack& d, const FloatStack& b,
                                              const FloatStack& a, std::size_t threads) {
  const std::size_t batch = common_batch({&d, &b, &a});
  std::vector<double> out(batch);
  for_each(batch, threads, [&](std::size_t i) {
    out[i] = mixed_inner_product(matrix_of(d, i), matrix_of(b, i), matrix_of(a, i));
  });
  return array_from(std::move(out));
}

py::array_t<float> widen(const py::bytes& stored, const std::string& dtype,
                         const std::string& isa) {
  const std::string_view bytes = stored;
  const Encoding encoding = encoding_from_code(dtype.c_str());
  const auto index = static_cast<std::size_t>(encoding);
  const Kernels& kernel = isa.empty() ? kernels() : kernels_named(isa);
  std::vector<float> out(bytes.size() / bytes_of(encoding, 1));
  const auto* const codes = reinterpret_cast<const std::byte*>(bytes.data());
  if (is_dtype(encoding)) {
    kernel.widen[index](codes, out.data(), out.size());
  } else if (kernel.decode[index] != nullptr) {
    kernel.decode[index](codes, nullptr, out.data(), out.size(), nullptr);
  } else {
    throw Error(Errc::invalid_argument, "widen: " + dtype + " is for scales");
  }
  return array_from(std::move(out));
}

py::bytes narrow(const py::array_t<float, py::array::c_style>& values, const std::string& dtype) {
  const DType type = dtype_from_code(dtype.c_str());
  if (type == DType::f32) throw Error(Errc::invalid_argument, "narrow: expected BF16 or F16");
  std::string out(static_cast<std::size_t>(values.size()) * 2, '\0');
  for (py::ssize_t i = 0; i < values.size(); ++i) {
    const float x = values.data()[i];
    const std::uint16_t bits = type == DType::f16 ? narrow_f16(x) : narrow_bf16(x);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
  return out;
}

}  // namespace

void register_linalg(py::module_& module) {
  module.def("truncated_svd", &truncated_svd_stack, py::arg("a"), py::arg("rank"),
             py::arg("oversampling"), py::arg("power_iterations"), py::arg("key"),
             py::arg("threads"));
  module.def("project_dense", &project_dense_stack, py::arg("delta"), py::arg("u"), py::arg("v"),
             py::arg("threads"));
  module.def("project_factors", &project_factor_stacks, py::arg("b"), py::arg("a"), py::arg("u"),
             py::arg("v"), py::arg("threads"));
  module.def("subspace_similarity", &similarity_stack, py::arg("u1"), py::arg("u2"),
             py::arg("threads"));
  module.def("inner_product", &inner_product_stack, py::arg("x"), py::arg("y"), py::arg("threads"));
  module.def("factored_inner_product", &factored_inner_product_stack, py::arg("b1"), py::arg("a1"),
             py::arg("b2"), py::arg("a2"), py::arg("threads"));
  module.def("mixed_inner_product", &mixed_inner_product_stack, py::arg("d"), py::arg("b"),
             py::arg("a"), py::arg("threads"));
  module.def("widen", &widen, py::arg("stored"), py::arg("dtype"), py::arg("isa") = "");
  module.def("narrow", &narrow, py::arg("values"), py::arg("dtype"));
}

}  // namespace loragraft::bindings
