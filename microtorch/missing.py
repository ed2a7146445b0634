"""Names of PyTorch 2.13 that microtorch lacks, by namespace: read to word an error.

Written by `python tests/test_missing.py`.
"""

# fmt: off
NAMES = {
    "torch": frozenset(
        """
adaptive_avg_pool1d adaptive_max_pool1d affine_grid_generator alpha_dropout amp angle
as_strided_scatter autocast avg_pool1d bartlett_window batch_norm
binary_cross_entropy_with_logits binomial blackman_window can_cast channel_shuffle
cholesky_inverse cholesky_solve choose_qparams_optimized classproperty compiled_with_cxx11_abi
complex cond conj conj_physical constant_pad_nd conv3d conv_transpose3d convolution corrcoef
cosine_embedding_loss cov ctc_loss cumulative_trapezoid dequantize diagflat diagonal_scatter
digamma distributed distributions dropout eig embedding embedding_bag empty_permuted
empty_quantized erfinv export feature_alpha_dropout feature_dropout fft fill fork frexp
frobenius_norm from_file frombuffer futures fx gcd geqrf get_num_interop_threads gradient
grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell hamming_window hann_window
heaviside hinge_embedding_loss histogram histogramdd hub i0 igamma igammac imag index_reduce
instance_norm int_repr is_complex is_conj is_distributed is_inference is_neg is_same_size
is_signed is_storage is_warn_always_enabled isneginf isposinf isreal istft jit kaiser_window
kl_div layout lcm ldexp lgamma lobpcg logaddexp2 lstm lstm_cell lstsq lu lu_solve lu_unpack
margin_ranking_loss matrix_exp matrix_rank max_pool1d max_pool1d_with_indices max_pool2d
max_pool3d memory_format multiprocessing mvlgamma nextafter nonzero_static norm_except_dim
nuclear_norm onnx orgqr ormqr pca_lowrank pdist poisson poisson_nll_loss polar polygamma
positive profiler qr qscheme quantization quantize_per_channel quantize_per_tensor
quantize_per_tensor_dynamic range real renorm resolve_conj resolve_neg rnn_relu rnn_relu_cell
rnn_tanh rnn_tanh_cell segment_reduce select_scatter set_default_tensor_type set_flush_denormal
set_num_interop_threads set_warn_always slice_inverse slice_scatter solve sparse
sparse_bsc_tensor sparse_bsr_tensor sparse_compressed_tensor sparse_coo_tensor
sparse_csc_tensor sparse_csr_tensor special stft svd svd_lowrank symeig thread_safe_generator
to_dlpack trapezoid trapz triangular_solve triplet_margin_loss typename unsafe_chunk
unsafe_split unsafe_split_with_sizes vander view_as_complex view_as_real vmap wait while_loop
""".split()
    ),
    "torch.Tensor": frozenset(
        """
H angle as_strided_ as_strided_scatter bfloat16 cauchy_ ccol_indices cdouble cfloat chalf
cholesky_inverse cholesky_solve coalesce col_indices conj conj_physical conj_physical_
const_data_ptr corrcoef cov crow_indices dense_dim dequantize diagflat diagonal_scatter digamma
digamma_ dim_order eig erfinv erfinv_ frexp gcd gcd_ geometric_ geqrf grad_dtype heaviside
heaviside_ histogram i0 i0_ igamma igamma_ igammac igammac_ imag index index_reduce
index_reduce_ indices int_repr ipu is_coalesced is_conj is_distributed is_inference is_meta
is_neg is_nested is_same_size is_set_to is_shared is_signed is_sparse_csr isneginf isposinf
isreal istft lcm lcm_ ldexp ldexp_ lgamma lgamma_ log_normal_ logaddexp2 lstsq lu lu_solve mH
map2_ map_ matrix_exp mtia mvlgamma mvlgamma_ name new nextafter nextafter_ nonzero_static
orgqr ormqr output_nr polygamma polygamma_ positive prelu qr qscheme real reinforce renorm
renorm_ resize resize_as resize_as_ resize_as_sparse_ resolve_conj resolve_neg row_indices
select_scatter set_ share_memory_ slice_inverse slice_scatter solve sparse_dim sparse_mask stft
storage storage_type svd symeig to_dense to_mkldnn to_padded_tensor to_sparse to_sparse_bsc
to_sparse_bsr to_sparse_coo to_sparse_csc to_sparse_csr triangular_solve unsafe_chunk
unsafe_split unsafe_split_with_sizes untyped_storage values volatile xpu
""".split()
    ),
    "torch.nn": frozenset(
        """
AdaptiveAvgPool3d AdaptiveLogSoftmaxWithLoss AdaptiveMaxPool3d AvgPool3d BatchNorm3d CTCLoss
ChannelShuffle CircularPad3d ConstantPad3d Container Conv3d ConvTranspose3d CrossMapLRN2d
DataParallel EmbeddingBag FractionalMaxPool2d FractionalMaxPool3d InstanceNorm3d LPPool1d
LPPool2d LPPool3d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d LazyConv1d LazyConv2d
LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d LazyInstanceNorm1d
LazyInstanceNorm2d LazyInstanceNorm3d LazyLinear LinearCrossEntropyLoss
LinearCrossEntropyOptions MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d NLLLoss2d
ReflectionPad3d ReplicationPad3d SyncBatchNorm UninitializedBuffer UninitializedParameter
ZeroPad3d
""".split()
    ),
    "torch.nn.functional": frozenset(
        """
adaptive_avg_pool3d adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
adaptive_max_pool3d adaptive_max_pool3d_with_indices affine_grid avg_pool3d channel_shuffle
conv3d conv_transpose3d ctc_loss embedding_bag fractional_max_pool2d
fractional_max_pool2d_with_indices fractional_max_pool3d fractional_max_pool3d_with_indices
grid_sample grouped_mm linear_cross_entropy lp_pool1d lp_pool2d lp_pool3d
max_pool1d_with_indices max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool1d
max_unpool2d max_unpool3d pdist scaled_grouped_mm scaled_mm upsample upsample_bilinear
upsample_nearest
""".split()
    ),
    "torch.nn.init": frozenset(
        """
constant dirac eye kaiming_normal kaiming_uniform normal orthogonal sparse uniform
xavier_normal xavier_uniform
""".split()
    ),
    "torch.optim": frozenset(
        """
Muon SparseAdam swap_in_optimizer_params_and_state
""".split()
    ),
    "torch.optim.lr_scheduler": frozenset(
        """
""".split()
    ),
    "torch.linalg": frozenset(
        """
cholesky_ex householder_product inv_ex ldl_factor ldl_factor_ex ldl_solve lu lu_factor
lu_factor_ex lu_solve matrix_exp solve_ex tensorinv tensorsolve vander
""".split()
    ),
    "torch.autograd": frozenset(
        """
is_multithreading_enabled is_tensor_like is_view_replay_enabled set_multithreading_enabled
""".split()
    ),
    "torch.utils.data": frozenset(
        """
ChainDataset DistributedSampler StackDataset default_convert
""".split()
    ),
    "torch.func": frozenset(
        """
debug_unwrap functionalize grad grad_and_value hessian jacfwd jacrev jvp linearize rearrange
replace_all_batch_norm_modules_ stack_module_state vjp vmap
""".split()
    ),
    "torch.nn.utils": frozenset(
        """
clip_grad_norm fuse_conv_bn_eval fuse_linear_bn_eval skip_init
""".split()
    ),
    "torch.nn.utils.parametrize": frozenset(
        """
get_swap_module_params_on_conversion is_opaque_reference_type is_traceable_wrapper_subclass
transfer_parametrizations_and_params
""".split()
    ),
    "torch.nn.utils.parametrizations": frozenset(
        """
orthogonal
""".split()
    ),
    "torch.optim.swa_utils": frozenset(
        """
""".split()
    ),
    "torch.compiler": frozenset(
        """
CacheInfo NestedCompileRegionOptions disable get_default_backend keep_portable_guards_unsafe
keep_tensor_guards_unsafe list_backends load_cache_artifacts load_compiled_function
nested_compile_region save_cache_artifacts set_default_backend set_enable_guard_collectives
set_stance skip_all_guards_unsafe skip_guard_on_all_nn_modules_unsafe
skip_guard_on_globals_unsafe skip_guard_on_inbuilt_nn_modules_unsafe substitute_in_graph
wrap_numpy
""".split()
    ),
}
