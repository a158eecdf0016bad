"""The Keras interface of the models: compile, data, metrics, saving. No mathematics."""

import inspect

import keras
import tensorflow as tf

from mlnt_tf.training import batches
from mlnt_tf.training.array_batches import ArrayBatches
from mlnt_tf.training.keras_internals import DistributedModel, built_for
from mlnt_tf.training.metrics import metrics_by_network
from mlnt_tf.training.networks import random_states
from mlnt_tf.training.optimizer_arguments import classification_optimizer


class Untracked:
    """Holds an object so that Keras does not track it as part of a model.

    Keras adds every network and metric that is assigned to a model's attribute to the model's own
    state. A network that only shares weights with the student would then be counted twice.
    """

    def __init__(self, value):
        self.value = value


class KerasModel(DistributedModel):
    """Makes a model with a `student` and `networks` behave like any other `keras.Model`.

    A subclass provides `student`, `networks`, `num_classes`, `trained_variables`, `start_teacher`,
    and a `train_step` and `test_step` of a batch, a dict of columns. Whatever form of data Keras
    accepts arrives there in this form.

    Attributes:
      seed: int. The order of shuffled arrays is a pure function of (seed, epoch).
    """

    seed = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._further_metrics = Untracked({})

    def compile(self, optimizer=None, *, loss=None, metrics=None, loss_weights=None,
                weighted_metrics=None, learning_rate=None, momentum=None, weight_decay=None,
                **kwargs):
        """Configures the classification update (paper eq. 9).

        Layers that were frozen or unfrozen since the last call take effect.

        Args:
          optimizer: any Keras optimizer, or its name. It excludes learning_rate, momentum and
            weight_decay, which describe `mlnt_tf.CoupledSGD`.
          loss, loss_weights, weighted_metrics: refused. The class defines its loss; override
            `per_example_loss` to change it.
          metrics: list of Keras metrics of (labels, logits), or functions of them. The student is
            measured in training, every network in validation. Accuracy is always measured.
          learning_rate: beta, a number or a Keras schedule of the step.
          momentum: of the velocity, in PyTorch's form. 0.9 by default.
          weight_decay: coefficient of the coupled weight decay. 0 by default.
          **kwargs: jit_compile, steps_per_execution and run_eagerly, as for `keras.Model.compile`.

        Raises:
          ValueError: an argument is refused, contradicts another or is not known to Keras.
        """
        _refuse_losses(loss=loss, loss_weights=loss_weights, weighted_metrics=weighted_metrics)
        further_metrics = metrics_by_network(metrics, self.networks)
        optimizer = classification_optimizer(
            optimizer, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
        self.prepare_to_compile()
        build_optimizer(optimizer, self.trained_variables)
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)
        self._further_metrics.value = further_metrics

    def prepare_to_compile(self):
        """Called by `compile` before the optimizer is built."""

    def further_metrics(self, network):
        """Returns the metrics given to `compile`, for a network of `networks`: a list."""
        return self._further_metrics.value.get(network, [])

    @property
    def metrics(self):
        further = self._further_metrics.value.values()
        return [*super().metrics, *(metric for metrics in further for metric in metrics)]

    def get_compile_config(self):
        """Returns the arguments of `compile`, serialized. Keras stores them with the model."""
        if not self.compiled:
            return {}
        return keras.saving.serialize_keras_object({
            "optimizer": self.optimizer, "metrics": self.further_metrics("student"),
            "run_eagerly": self.run_eagerly, "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution})

    def compile_from_config(self, config):
        """Compiles a loaded model as it was compiled when it was saved."""
        if config:
            self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self):
        """Returns the arguments of the constructors. Keras stores them with the model.

        An argument must be an attribute of the same name. A class for which this does not hold
        writes its own `get_config`.

        Raises:
          NotImplementedError: an argument is not an attribute that Keras can serialize.
        """
        config = {**super().get_config(), "network": self.student}
        for name in _constructor_arguments(type(self)):
            if not hasattr(self, name) or isinstance(getattr(self, name), keras.Variable):
                raise NotImplementedError(
                    f"Keras cannot save a {type(self).__name__}, because its argument {name!r} is "
                    "not stored. Save model.student and model.teacher, or use save_weights.")
            config[name] = getattr(self, name)
        return keras.saving.serialize_keras_object(config)

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))

    def save_own_variables(self, store):
        """Also saves the states of random number generators, which Keras does not."""
        super().save_own_variables(store)
        for index, state in enumerate(self._random_states()):
            store[f"random_state_{index}"] = state.numpy()

    def load_own_variables(self, store):
        own = {name: store[name] for name in store.keys() if not name.startswith("random_state_")}
        super().load_own_variables(own)
        for index, state in enumerate(self._random_states()):
            state.assign(store[f"random_state_{index}"])

    def _random_states(self):
        return [state for network in self.networks.values() for state in random_states(network)]

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None,
            validation_split=0.0, validation_data=None, shuffle=True, class_weight=None,
            sample_weight=None, initial_epoch=0, steps_per_epoch=None, *, neighbors=None,
            **kwargs):
        """Trains the student and the teacher; see `keras.Model.fit`.

        Args:
          x: images [n, height, width, channels] with y; a dict of arrays; or a tf.data.Dataset,
            PyDataset or generator of (image, label), (image, label, weight) or dicts.
          y: int [n], labels.
          class_weight, sample_weight: multiply the classification loss, and nothing else.
          neighbors: the result of `find_neighbors` for the rows of x. By default, neighbors are
            searched in each batch. Only with arrays; see `with_neighbors` for data sets.
          Other arguments: as in Keras. The order of arrays is a pure function of the model's seed
            and the epoch.

        Raises:
          ValueError: the data have a form, shape or type that cannot be trained on.
        """
        weights = batches.class_weight_table(class_weight, self.num_classes)
        to_batch = batches.BatchFormat(self.num_classes, weights)
        if batches.is_arrays(x):
            if neighbors is not None and validation_split:
                raise ValueError("neighbors excludes validation_split, because training examples "
                                 "could be given labels of held-out ones. Pass validation_data. "
                                 f"Received: {validation_split=}")
            columns = to_batch.convert_arrays(x, y, sample_weight, neighbors)
            if validation_split and validation_data is None:
                columns, validation_data = batches.split_columns(columns, validation_split)
                validation_data.pop("weight", None)
            arrays = ArrayBatches(columns, batch_size=batch_size, shuffle=bool(shuffle),
                                  seed=self.seed, steps_per_epoch=steps_per_epoch)
            x, steps_per_epoch = arrays.dataset(), None
            callbacks = _with_callback(callbacks, arrays)
        else:
            if y is not None or sample_weight is not None or neighbors is not None:
                raise ValueError("y, sample_weight and neighbors need arrays. A data set yields "
                                 "(image, label), (image, label, weight) or a dict; see "
                                 "mlnt_tf.with_neighbors for neighbors. "
                                 f"Received: x of type {type(x).__name__}")
            x = to_batch.convert(x)
            shuffle = shuffle and isinstance(x, keras.utils.PyDataset)
        self.start_teacher()
        return super().fit(
            x, batch_size=batch_size, epochs=epochs, verbose=verbose, callbacks=callbacks,
            validation_data=self._validation_data(validation_data),
            validation_split=validation_split if validation_data is None else 0.0,
            shuffle=shuffle and not isinstance(x, tf.data.Dataset), initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch, **kwargs)

    def _validation_data(self, data):
        """Returns validation data in a form for `evaluate`, which `fit` calls."""
        if data is None:
            return None
        if isinstance(data, (tuple, list)):
            return self._evaluation_batches(*data)
        return self._evaluation_batches(data)

    def _evaluation_batches(self, x, y=None, sample_weight=None):
        to_batch = batches.BatchFormat(self.num_classes)
        if batches.is_arrays(x):
            return to_batch.convert_arrays(x, y, sample_weight)
        return to_batch.convert(x)

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None,
                 **kwargs):
        """Measures every network; see `keras.Model.evaluate`. Data as for `fit`.

        Returns:
          one number per name of `metrics_names`, or with return_dict=True a dict of them.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # `fit` has converted its data.
            x = self._evaluation_batches(x, y, sample_weight)
        return super().evaluate(x, batch_size=batch_size, verbose=verbose, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Takes one step; see `keras.Model.train_on_batch`. Arrays as for `fit`."""
        weights = batches.class_weight_table(class_weight, self.num_classes)
        to_batch = batches.BatchFormat(self.num_classes, weights)
        self.start_teacher()
        self.make_train_function()
        batch = to_batch.convert_arrays(x, y, sample_weight)
        return self._run_on_batch(self.train_function, batch, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Measures every network on one batch; see `keras.Model.test_on_batch`."""
        self.make_test_function()
        batch = self._evaluation_batches(x, y, sample_weight)
        return self._run_on_batch(self.test_function, batch, return_dict)

    def _run_on_batch(self, function, batch, return_dict):
        self.reset_metrics()
        tensors = {name: tf.convert_to_tensor(column) for name, column in batch.items()}
        logs = {name: float(value) for name, value in function(iter([tensors])).items()}
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def predict_step(self, data):
        """Returns the student's logits for images, or for the images of batches as for `fit`."""
        images = data[0] if isinstance(data, (tuple, list)) else data
        if isinstance(images, dict) and "image" in images:
            images = images["image"]
        return self(images, training=False)

    def export(self, *args, **kwargs):
        """Exports the student; see `keras.Model.export`."""
        return self.student.export(*args, **kwargs)


def _constructor_arguments(model_class):
    """Returns the names of the keyword arguments of a model's constructors, without the network."""
    names = {}
    for each in model_class.__mro__[:model_class.__mro__.index(KerasModel)]:
        if "__init__" in vars(each):
            parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
            names |= {one.name: None for one in parameters if one.kind is not one.VAR_KEYWORD}
    return [name for name in names if name not in ("self", "network")]


def build_optimizer(optimizer, variables):
    """Builds an optimizer for these variables.

    Raises:
      ValueError: it was built for others before, for example before layers were unfrozen.
    """
    if not optimizer.built:
        optimizer.build(variables)
        return
    known = built_for(optimizer)
    if list(map(id, known)) != list(map(id, variables)):
        raise ValueError("This optimizer already belongs to other variables. Pass a new one. "
                         f"Received: {type(optimizer).__name__} with {len(known)} variables for "
                         f"a network that trains {len(variables)}")


def _refuse_losses(**arguments):
    given = [f"{name}={value!r}" for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError("The class defines its loss. Override per_example_loss(batch, logits), "
                         "which returns one loss per example, to change it, and weight examples "
                         f"with sample_weight or class_weight. Received: {', '.join(given)}")


def _with_callback(callbacks, callback):
    """Returns the callbacks of `fit`, in any form that Keras accepts, with one more at the end."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(callback)
        return callbacks
    if callbacks is None:
        return [callback]
    return [*(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]), callback]
